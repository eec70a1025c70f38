"""Services that never import one another, and the kernel of mechanisms below them."""
