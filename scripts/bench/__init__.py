"""What the program takes, part by part, beside its floor and its peers: `python -m scripts.bench --help`."""
