"""How an agent lives: reconcile, supervise, back off, tell the time."""
