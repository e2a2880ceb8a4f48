"""Pansharpening, five papers, every method: `import pansharp_nb as ps`, then `ps.score(ps.open_scene('scene.nc'))`"""
__version__ = "0.1.0"

import os as _os
from importlib import import_module as _module

if 'OMP_WAIT_POLICY' not in _os.environ: _os.environ.setdefault('GOMP_SPINCOUNT', '1000') # before torch: threads that wait leave a shared core to others

_doors = dict(open_scene='data.scenes:open_scene', made_up='data.synthetic:made_up', score='scoring:score', judge='scoring:judge_image',
    fuse='fusing:fuse', methods='scoring:catalogue', method='scoring:method', train='training:run')
__all__ = list(_doors)

def __getattr__(name): # nothing is imported before it is used: torch alone takes a second
    if name not in _doors: raise AttributeError(f'module {__name__!r} has no {name!r}: it has {", ".join(_doors)}')
    module,function = _doors[name].split(':')
    return getattr(_module(f'.{module}', __name__), function)

def __dir__(): return [*globals(), *_doors]
