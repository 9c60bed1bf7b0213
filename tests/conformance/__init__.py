"""One contract per port, run on the real adapter and on its fake."""
