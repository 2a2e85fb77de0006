"""What strangers may send, made up at random, against what is running."""
