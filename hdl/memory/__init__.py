"""Memory behind one port: the port itself and the controllers that implement it."""
