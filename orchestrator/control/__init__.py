"""The control plane: desired against observed state."""
