"""Models: between a bundle or a file of weights and a network on a device."""
