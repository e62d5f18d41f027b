"""How rows and JSON are written and read, whatever they hold."""
