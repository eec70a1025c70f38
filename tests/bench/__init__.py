"""The benchmark: ``make bench``. Figures are ratios within one run; a timing decides no test (docs/benchmarks.md)."""

import warnings

warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")  # docs/adr/0001
