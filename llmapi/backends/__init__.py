"""Where answers come from: the local engine, or an echo for trying things out."""
