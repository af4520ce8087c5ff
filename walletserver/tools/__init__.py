"""The sixteen tools and how they are bound to their services."""
