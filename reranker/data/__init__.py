"""Tables and data sets: contracts, files, built-in data, catalogues, splits."""
