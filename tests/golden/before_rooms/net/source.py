class Net(flambe_save.Component, nn.Module):
    """A component that is built with a link."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(size, 2)

    def forward(self, x: Any) -> Any:
        """Return the head's values."""
        return self.head(self.encoder.layer(x))
