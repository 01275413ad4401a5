"""The networks: arrays in, arrays out. Importing them changes nothing in the process."""
