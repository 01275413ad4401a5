"""Several machines that make clips together: who does what, what they agree on first, and how all of them end."""
