"""工会驿站: union stations, their devices, and the check-ins they post. See README.md in this folder."""
