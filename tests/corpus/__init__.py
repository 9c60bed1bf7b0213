"""What earlier versions wrote, byte by byte, and what must be read from it for ever."""
