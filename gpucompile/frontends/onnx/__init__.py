"""The ONNX front end: `importer.import_model`, and one file of import functions for each family of ops."""
