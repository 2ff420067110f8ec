class RandomStates(Registrable):
    """Stands for the random states of the whole process: saving one reads them, and loading it sets them.

    They are torch's CPU generator, those of all CUDA devices and of mps, numpy's global one where numpy is imported,
    and that of Python's ``random``. The object itself holds nothing.

    Wherever it stands, it is loaded last, because what else is loaded may draw numbers. Devices, or numpy, that the
    save has states of and this machine has not, are left out, with a :class:`~flambe_save.StateMismatchWarning`; what
    the save has no state of stays as it is.

    Examples
    --------
    >>> import tempfile
    >>> from flambe_save import load, save
    >>> path = save(RandomStates(), tempfile.mkdtemp() + "/states")
    >>> before = torch.rand(3)
    >>> load(path)  # doctest: +ELLIPSIS
    RandomStates(torch, ...)
    >>> torch.equal(torch.rand(3), before)
    True
    """

    __flambe_adapter__ = _ProcessAdapter(lambda obj: Schema(RandomStates), lambda obj: _process_parts())

    def __repr__(self) -> str:
        names = [name for name, part in _process_parts().items() if name != "cuda" and part.read() is not None]
        return f"RandomStates({', '.join([*names, *(f'cuda:{index}' for index in range(_cuda_devices()))])})"
