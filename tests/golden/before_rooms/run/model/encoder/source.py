class Encoder(flambe_save.Component, nn.Module):
    """A component with an argument that another's link reads."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.layer = nn.Linear(size, size)
