"The operators of degrade.ipynb against the arrays of the MATLAB toolbox."
import numpy as np, pytest, torch
from pansharp_nb.data.degrade import imresize, interp23tap, lp_wavelet, mtf_kernel, wald
from pansharp_nb.data.sensors import sensor
from conftest import load

@pytest.mark.parametrize('name', ['QB', 'IKONOS', 'WV2', 'WV3'])
def test_kernels(reference, name):
    s = sensor(name)
    want = np.load(reference/f'kernels/genMTF_{name}_r4.npy')
    assert abs(np.stack([mtf_kernel(g) for g in s.gains], -1)-want).max() < 1e-15
    assert abs(mtf_kernel(s.gain_pan)-np.load(reference/f'kernels/MTF_PAN_{name}_r4.npy')).max() < 1e-15

def test_lp_gauss_kernel(reference):
    assert abs(mtf_kernel(.3, n=41)-np.load(reference/'kernels/LPfilterGauss_r4.npy')).max() < 1e-15

@pytest.mark.parametrize('case', ['bicubic_quarter', 'bicubic_x4', 'bilinear_quarter', 'bilinear_x4'])
def test_imresize(reference, case):
    z = np.load(reference/'kernels/imresize_cases.npz')
    kernel,scale = case.split('_')
    got = imresize(torch.from_numpy(z['A'])[None, None].double(), {'quarter': 1/4, 'x4': 4}[scale], kernel=kernel)
    assert abs(got[0, 0].numpy()-z[case]).max() < 1e-12*abs(z['A']).max()

def test_interp23_impulse(reference):
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[..., 8, 8] = 1
    assert abs(interp23tap(x)[0, 0].numpy()-np.load(reference/'kernels/interp23tap_impulse_in8_8_of32_r4.npy')).max() < 1e-14

def test_lp_wavelet_impulse(reference):
    x = torch.zeros(1, 1, 101, 101, dtype=torch.float64)
    x[..., 50, 50] = 1
    got = lp_wavelet(x)[0, 0, 30:71, 30:71].numpy()
    assert abs(got-np.load(reference/'kernels/LPfilter_wavelet_impulse_r4.npy')).max() < 1e-14

@pytest.mark.parametrize('name', ['WV2', 'IKONOS'])
@pytest.mark.parametrize('dtype,tol', [(torch.float64, 1.3e-4), (torch.float32, 2e-3)])
def test_wald(reference, scenes, name, dtype, tol):
    "The float64 tolerance is half a float32 step at 2047: the reference arrays are stored so."
    d = reference/name/'rr'
    gt = load(d/'I_GT.npy', dtype)
    import h5py
    with h5py.File(scenes/{'WV2': 'WV2_imgWV2.nc', 'IKONOS': 'IKONOS_imgIK.nc'}[name]) as f:
        pan = torch.from_numpy(f['pan'][:1024, :1024].astype('f8')).to(dtype)[None, None]
    ms_lr,pan_lr,ref = wald(gt, pan, name)
    assert (ref==gt).all()
    assert (ms_lr-load(d/'I_MS_LR.npy')).abs().max() < tol
    assert (pan_lr-load(d/'I_PAN.npy')).abs().max() < tol
    assert (interp23tap(ms_lr)-load(d/'I_MS.npy')).abs().max() < tol
