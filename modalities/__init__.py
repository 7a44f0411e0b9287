"""What is trained: one package per modality, all with the same rooms. Importing this imports no torch."""
