"""What knows the answer independently of us."""
