"""What can be wrong with a charter, an edict, a grant or a token; each message is one line."""


class AdmissionError(ValueError):
    """The base: a person can put it right, or a peer sent what no correct peer sends."""


class BadCharter(AdmissionError):
    """This text is no charter."""


class BadEdict(AdmissionError):
    """An edict, or a signature on it, is not as it must be."""


class BadGrant(AdmissionError):
    """A grant, or its use, is wider than it may be or not signed by whom it names."""


class BadToken(AdmissionError):
    """This text is no invite."""
