"""The conformance battery: what every gradient transformation has to survive."""

# Imported in the order in which their checks run.
from gradax.testing import _placement as _placement  # isort: skip
from gradax.testing import _dtypes as _dtypes  # isort: skip
from gradax.testing import _leaves as _leaves  # isort: skip
from gradax.testing import _composition as _composition  # isort: skip
from gradax.testing import _state as _state  # isort: skip
from gradax.testing import _arguments as _arguments  # isort: skip
from gradax.testing import _numerics as _numerics  # isort: skip
from gradax.testing._battery import Cell as Cell
from gradax.testing._battery import ConformanceError as ConformanceError
from gradax.testing._battery import PeerSpec as PeerSpec
from gradax.testing._battery import cells as cells
from gradax.testing._battery import check_transformation as check_transformation
from gradax.testing._battery import peer_specs as peer_specs
from gradax.testing._battery import subject as subject
from gradax.testing._extras import SUPPLIERS as SUPPLIERS
from gradax.testing._extras import At as At
from gradax.testing._forms import FORM_CHECKS as FORM_CHECKS
from gradax.testing._forms import OBSERVATIONS as OBSERVATIONS
from gradax.testing._forms import FormCell as FormCell
from gradax.testing._forms import FormCheck as FormCheck
from gradax.testing._forms import check_form as check_form
from gradax.testing._forms import form_cells as form_cells
from gradax.testing._forms import form_of as form_of
from gradax.testing._forms import made as made
from gradax.testing._registry import CHECKS as CHECKS
from gradax.testing._registry import Check as Check
from gradax.testing._subject import Subject as Subject
