"""Float operations in torch, for gradients; the integers of a forward pass come from elsewhere."""
