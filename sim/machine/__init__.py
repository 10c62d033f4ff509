"""The machine as software sees it: sizes, ports, commands. Hardware, compiler and executor share these definitions."""
