"""What a network is, and how it is kept on disk. Reading a card needs no torch."""
