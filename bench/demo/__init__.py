"""The demo at several seeds, with and without self-play, side by side."""
