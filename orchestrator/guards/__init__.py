"""What an operator holds back: frozen roles, disabled tools, roles in shadow."""
