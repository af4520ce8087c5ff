"""Secret references and the stores that resolve them."""
