"""Units for what the array does not compute: wide numbers in, wide numbers or codes out."""
