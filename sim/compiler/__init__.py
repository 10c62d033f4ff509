"""From an exported model to a program of the machine: the image encoder as commands and the data they read."""
