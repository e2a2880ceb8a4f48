"""Every method through every metric, end to end, against the numbers of the MATLAB toolbox on its two images.

`python tests/test_reference.py` prints the agreement: the largest relative error per method and per metric."""
import json
from functools import lru_cache
import h5py, pandas as pd, pytest, torch
from pansharp_nb import scoring
from pansharp_nb.data.degrade import wald
from pansharp_nb.data.sensors import sensor
from pansharp_nb.models.networks import networks
from conftest import load, shared

files = dict(WV2='WV2_imgWV2.nc', IKONOS='IKONOS_imgIK.nc')
ours = {'CNMF', 'SFR', *networks}                                           # not in the toolbox
loose = {'Q2n': 2e-5, 'D_lambda_K': 2e-5, 'HQNR': 2e-5, 'HQNR_R': 2e-5} # a uint16 rounding may flip

@lru_cache
def inputs(name, protocol): # exact float64 inputs: no array that was stored in float32
    if protocol=='FR': return *(load(shared/f'reference/{name}/fr/{f}.npy') for f in ('I_MS_LR', 'I_PAN')), None
    with h5py.File(shared/'scenes'/files[name]) as f:
        ms,pan = (torch.from_numpy(f[k][..., :n, :n].astype('f8')) for k,n in (('ms', 256), ('pan', 1024)))
    return wald(ms[None], pan[None, None], name)

@lru_cache
def expected(): return json.loads((shared/'reference/reference_metrics.json').read_text('utf-8'))['images']

def errors(name, protocol, m):
    "Relative error of each metric that the reference has."
    ms,pan,ref = inputs(name, protocol)
    want = expected()[name][protocol][m]
    kw = {}
    if m.startswith('C-'):
        lab = load(shared/f'reference/{name}/{protocol.lower()}/kmeans_labels_5.npy')[:, 0]
        kw = dict(labels=lab.long())
    x = scoring.method(m)(ms, pan, sensor(name), **kw)
    got = scoring.judge(x, ms, pan, ref, sensor(name))
    return {k: abs(v-want[k])/max(abs(want[k]), 1e-3) for k,v in got.items() if k in want}

cases = [(n, p, m) for n in files for p in ('RR', 'FR') for m in scoring.names() if m not in ours]

@pytest.mark.parametrize('name,protocol', [(n, p) for n in files for p in ('RR', 'FR')])
def test_every_number(reference, name, protocol):
    if not (shared/'scenes').is_dir(): pytest.skip('no real scenes beside the project')
    bad,seen = [],0
    for n,p,m in cases:
        if (n, p)!=(name, protocol): continue
        e = errors(n, p, m)
        seen += len(e)
        bad += [f'{m} {k}: {v:.1e}' for k,v in e.items() if not v<loose.get(k, 1e-5)]
    assert not bad
    assert seen >= 27*7

if __name__=='__main__':
    df = pd.DataFrame({(n, p, m): errors(n, p, m) for n,p,m in cases}).T
    print(df.max().map('{:.1e}'.format).to_string(), '\n')
    print(df.max(axis=1).unstack([0, 1]).map('{:.1e}'.format).to_string())

