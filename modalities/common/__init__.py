"""What several modalities share: N-d patches, positions, masking, the masked auto-encoder, the Model base."""
