"""What can go wrong where a person can act on it.

::

    KdsegError               exit code 1
    ├── UsageError           exit code 2: the command was not understood
    │   ├── RecipeError      a recipe with an unknown key or a wrong value
    │   └── DataSetError     a folder that is no data set, a case that is not in it
    ├── VolumeError          a file or an array that is no good volume
    │   ├── LabelError       label values outside the set, or not integral
    │   └── GridError        two volumes that should share a grid and do not
    ├── ModelError           a model folder that cannot be trusted, or does not fit
    │   └── MissingModelError  exit code 2, it is a UsageError, too: none is there
    ├── ProjectError         a folder that is no project, or cannot be changed so
    ├── RunError             a run folder in the wrong state
    ├── ReviewError          verdicts that cannot be kept or read
    │   └── DamagedStoreError  a store of verdicts that is no longer whole
    └── StopRequested        exit code 3: somebody asked the run to stop
        └── RequeueRequested exit code 75: the machine is taken away; start it again

Every message is one sentence, or two: which thing, the value found, the rule, and
what to do about it.
"""


class KdsegError(Exception):
    """Something a person can mend; the message says how."""

    exit_code = 1


class UsageError(KdsegError):
    """A command or a recipe that asks for something impossible."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe with an unknown key or a value out of range."""


class DataSetError(UsageError):
    """A folder that is no data set, or a case that is not in it."""


class VolumeError(KdsegError):
    """A file or an array that is no good volume."""


class LabelError(VolumeError):
    """Label values that are not integral or not in the set."""


class GridError(VolumeError):
    """Two volumes that should lie on one grid and do not."""


class ModelError(KdsegError):
    """A model folder that cannot be trusted, or does not fit the volume."""


class MissingModelError(ModelError, UsageError):
    """A model folder that somebody named and that is not there, as a missing scan."""


class ProjectError(KdsegError):
    """A folder that is no project, or a change that a project cannot take."""


class RunError(KdsegError):
    """A run folder in the wrong state for what was asked."""


class ReviewError(KdsegError):
    """Verdicts that cannot be kept or read, or a store that cannot be opened."""


class DamagedStoreError(ReviewError):
    """A store of verdicts that is no longer whole; `review.recovery` can mend it."""


class StopRequested(KdsegError):  # noqa: N818 - an order, not an error
    """Somebody asked the run to stop, and it did in good order."""

    exit_code = 3


class RequeueRequested(StopRequested):
    """The machine was asked for; the run stopped in good order, to be started again.

    75 is ``EX_TEMPFAIL`` of sysexits.h: it failed for now, and may be tried again.
    """

    exit_code = 75
