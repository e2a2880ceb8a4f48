"Where the reference arrays and the real scenes lie; tests that need them are skipped without."
import os
from pathlib import Path
os.environ.setdefault('OMP_WAIT_POLICY', 'passive') # before torch: on shared cores threads that spin while they wait cost 10-70 times
import numpy as np, pytest, torch

shared = Path(__file__).parents[2]/'shared'

@pytest.fixture(scope='session')
def reference():
    "Folder of arrays and numbers of the MATLAB toolbox."
    if not (shared/'reference').is_dir(): pytest.skip('no reference arrays beside the project')
    return shared/'reference'

@pytest.fixture(scope='session')
def scenes():
    "Folder of real scenes."
    d = Path(os.environ.get('PANSHARP_NB_DATA') or shared/'scenes')
    if not d.is_dir(): pytest.skip('no real scenes here: set PANSHARP_NB_DATA')
    return d

def load(path, dtype=torch.float64):
    "An `(H, W[, C])` array as `(1, C, H, W)`."
    a = np.load(path, allow_pickle=False).astype(np.float64)
    return torch.from_numpy(a if a.ndim==3 else a[..., None]).permute(2, 0, 1)[None].to(dtype)
