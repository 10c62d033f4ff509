"""Host link: serial bytes, COBS frames with CRC-32, and the commands that feed the array."""
