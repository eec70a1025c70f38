"""Who somebody is, once: logins, sessions, roles, and the tokens that the other services believe."""
