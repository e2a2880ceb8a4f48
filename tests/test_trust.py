"What a stranger's folder, file, server or name can do: nothing that was not asked. And what each extra holds."
import ast, errno, hashlib, http.server, io, json, os, re, shutil, subprocess, sys, tarfile, threading, tomllib
from html.parser import HTMLParser
from pathlib import Path
from tempfile import mkdtemp
import nbformat, numpy as np, pandas as pd, pytest, scipy.io, xarray as xr
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter
import closure
from pansharp_nb import cli, reporting, settings
from pansharp_nb.data import fetch
from pansharp_nb.data.licences import granted, licence_of, licence_of_weights, spdx
from pansharp_nb.data.scenes import open_scene
from pansharp_nb.data.synthetic import made_up

root = Path(__file__).parents[1]
me = os.geteuid() if hasattr(os, 'geteuid') else None

def one_line(e, *words):
    said = str(e.value)
    assert '\n' not in said and all(str(w) in said for w in words), said

@pytest.fixture(autouse=True)
def said_anew():
    settings.say_once.cache_clear()
    yield
    settings.say_once.cache_clear()

# ---- whose folder it is

@pytest.fixture
def deep(tmp_path, monkeypatch):
    "Two projects, one inside the other, and a folder deep in both, where we stand; `theirs` makes a path another user's."
    monkeypatch.delenv('PANSHARP_NB_ROOT', raising=False)
    for d in ('a', 'a/b'):
        (tmp_path/d).mkdir()
        (tmp_path/d/'settings.ini').write_text(f'[paths]\nreports = from-{d[-1]}\n', 'utf-8')
    (tmp_path/'a/b/c').mkdir()
    monkeypatch.chdir(tmp_path/'a/b/c')
    real = Path.lstat
    monkeypatch.setattr(settings.Path, 'lstat', lambda p: Other(real(p)) if p in others else real(p))
    stat = Path.stat
    monkeypatch.setattr(settings.Path, 'stat', lambda p, **kw: Other(stat(p, **kw)) if p in others else stat(p, **kw))
    others = set()
    return tmp_path, others.add

class Other: # what the system says of a file, but for its owner
    def __init__(self, s): self.s,self.st_uid = s,me+1
    def __getattr__(self, k): return getattr(self.s, k)

def test_the_nearest_of_ones_own_is_taken(deep, recwarn):
    d,_ = deep
    assert settings.root()==d/'a/b' and settings.config()['paths']['reports']=='from-b' and not list(recwarn)

@pytest.mark.parametrize('what', ['settings.ini', '.'])
def test_another_users_is_passed_over_and_said_once(deep, recwarn, what):
    "The file, or the folder that holds it."
    d,theirs = deep
    theirs((d/'a/b'/what) if what!='.' else d/'a/b')
    for _ in range(3): assert settings.root()==d/'a' and settings.config()['paths']['reports']=='from-a'
    said, = [str(w.message) for w in recwarn]
    assert str(d/'a/b/settings.ini') in said and f'id {me+1}' in said and 'PANSHARP_NB_ROOT=' in said and '\n' not in said

def test_all_are_anothers(deep, recwarn):
    d,theirs = deep
    theirs(d/'a/b/settings.ini'), theirs(d/'a/settings.ini')
    assert settings.root()==d/'a/b/c' and settings.config()['paths']['reports']=='reports' and len(recwarn)==2

def test_a_folder_that_was_named_is_taken(deep, monkeypatch, recwarn):
    d,theirs = deep
    theirs(d/'a/b/settings.ini')
    monkeypatch.setenv('PANSHARP_NB_ROOT', str(d/'a/b'))
    assert settings.root()==d/'a/b' and settings.config()['paths']['reports']=='from-b' and not list(recwarn)

def test_sudo_is_the_user_behind_it(deep, monkeypatch):
    d,theirs = deep
    theirs(d/'a/b/settings.ini')
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    for who,want in ((str(me+1), d/'a/b'), ('nobody', None), ('', None)):
        monkeypatch.setenv('SUDO_UID', who)
        if want: assert settings.root()==want
        else: assert settings.stranger(d/'a/b/settings.ini')
    monkeypatch.setattr(os, 'geteuid', lambda: me+7) # SUDO_UID counts for root alone
    monkeypatch.setenv('SUDO_UID', str(me))
    assert settings.stranger(d/'a/settings.ini')

def test_a_system_that_tells_no_owner(deep, monkeypatch, recwarn):
    "As Windows: a project below the home folder is taken, another is not, and a line says why."
    d,_ = deep
    monkeypatch.delattr(os, 'geteuid')
    monkeypatch.setattr(settings.Path, 'home', lambda: d/'a')
    assert settings.root()==d/'a/b' and not list(recwarn)
    monkeypatch.setattr(settings.Path, 'home', lambda: d/'elsewhere')
    assert settings.root()==d/'a/b/c' and 'does not tell whose it is' in str(recwarn[0].message)

def test_the_clone_itself_is_always_taken(monkeypatch):
    "Its code runs already, whoever owns it: a container, a lab's shared clone."
    monkeypatch.delenv('PANSHARP_NB_ROOT', raising=False)
    monkeypatch.setattr(settings, '_users', lambda: {me+1})
    assert settings.root(root/'nbs'/'tables')==root

@pytest.mark.skipif(me!=0, reason='only root can give a file away')
def test_a_file_that_was_really_given_away(tmp_path, monkeypatch, capsys):
    "On the command line it is one line on standard error."
    monkeypatch.delenv('PANSHARP_NB_ROOT', raising=False)
    monkeypatch.delenv('SUDO_UID', raising=False)
    (tmp_path/'settings.ini').write_text('[paths]\ndata = theirs\n', 'utf-8')
    os.chown(tmp_path/'settings.ini', 4321, -1)
    monkeypatch.chdir(tmp_path)
    assert cli.main(['data', 'list'])==0
    err = capsys.readouterr().err
    assert err.count('\n')==1 and 'id 4321' in err and err.startswith('pansharp-nb: ')

# ---- settings.ini

@pytest.mark.parametrize('text,said', [('data = x', 'no section'), ('[paths', 'section'), ('[paths]\ndata', 'data'), ('[paths]\ndata = a\ndata = b', 'already exists'), ('[paths]\n[paths]', 'already exists'),
    ('[path]\ndata = x', '[path]'), ('[paths]\nreport = x', "'report'"), ('[DEFAULT]\nx = 1', "'x'"), ('[paths]\ndata = /etc', 'leaves the project'), ('[paths]\nreports = ../x', 'leaves the project'),
    ('[paths]\nweights = a/../../b', 'leaves the project'), ('[paths]\ndata =', 'leaves the project'), ('[paths]\ndata = a\x00b', 'leaves the project'), ('[profile.smoke]\nsize = big', 'size = big'),
    ('[profile.smoke]\nsize = 12.5', 'size = 12.5'), ('[profile.paper]\nsize = -1', 'size = -1'), ('[profile.paper]\nsize = 1000000', 'size'), ('[profile.quick]\nsize =', 'size is empty'), ('[profile.quick]\nmethods =', 'methods is empty'),
    ('[profile.mine]\nsize = 64', 'lacks methods, sensors'), ('[profile.smoke]\ncolour = red', "'colour'")])
def test_settings_that_cannot_be_used_are_one_line(tmp_path, text, said):
    (tmp_path/'settings.ini').write_bytes(text.encode())
    with pytest.raises(ValueError) as e: settings.config(tmp_path)
    one_line(e, tmp_path/'settings.ini', said, 'mend it')

@pytest.mark.parametrize('data', [b'\xff\xfe[\x00p\x00', b'[paths]\ndata = \xe9t\xe9\n', b'#'*2**21], ids=['UTF-16', 'Latin-1', 'two megabytes'])
def test_settings_that_are_no_text_are_one_line(tmp_path, data):
    (tmp_path/'settings.ini').write_bytes(data)
    with pytest.raises(ValueError) as e: settings.config(tmp_path)
    one_line(e, tmp_path/'settings.ini')

def test_settings_as_editors_write_them(tmp_path):
    "A byte-order mark, Windows line ends, a percent sign, a letter beyond ASCII, a profile of one's own, a link that leads outside."
    (tmp_path/'out').symlink_to('/')
    text = '\ufeff[paths]\r\ndata = 50%/été\r\nreports = out\r\n[profile.mine]\r\nsize = 64\r\nsensors = QB\r\nmethods = EXP\r\n'
    (tmp_path/'settings.ini').write_bytes(text.encode())
    c = settings.config(tmp_path)
    assert dict(c['paths'])==dict(data='50%/été', reports='out', weights='weights') and c['profile.mine']['methods']=='EXP'

@pytest.mark.parametrize('make', ['folder', 'pipe'])
def test_what_is_no_file_is_no_settings(tmp_path, make):
    d = tmp_path/'settings.ini'
    d.mkdir() if make=='folder' else os.mkfifo(d)
    assert settings.config(tmp_path)['paths']['data']=='data'

def test_a_broken_project_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path/'settings.ini').write_text('[paths]\nreports = /etc\n', 'utf-8')
    monkeypatch.setenv('PANSHARP_NB_ROOT', str(tmp_path))
    assert cli.main(['data', 'list'])==1
    err = capsys.readouterr().err
    assert err.count('\n')==1 and 'leaves the project' in err

def test_a_folder_of_reports_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setenv('PANSHARP_NB_ROOT', str(tmp_path))
    (tmp_path/'settings.ini').touch()
    (tmp_path/'reports').touch()
    with pytest.raises(OSError) as e: settings.reports_dir()
    one_line(e, tmp_path/'reports', 'settings.ini')

# ---- which code

git = shutil.which('git')
needs_git = pytest.mark.skipif(not git, reason='no git')

def at(d, *words, **env):
    plain = dict(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM='1') | {f'GIT_{w}_{k}': 'a@b' for w in ('AUTHOR', 'COMMITTER') for k in ('NAME', 'EMAIL')}
    p = subprocess.run([git, '-C', d, *words], capture_output=True, encoding='utf-8', env=os.environ | plain | env)
    assert p.returncode==0, p.stderr
    return p.stdout.strip()

def traps(d): # a repository whose configuration runs something at every turn; what was run lies in `ran`
    ran = d.parent/'ran'
    ran.mkdir(exist_ok=True)
    def trap(name): return f'touch {ran/name}'
    for k in ('fsmonitor', 'pager', 'sshCommand', 'editor', 'askPass'): at(d, 'config', f'core.{k}', trap(k))
    for k in ('rev-parse', 'ls-tree', 'status', 'diff'): at(d, 'config', f'alias.{k}', f'!{trap("alias-"+k)}')
    for k in ('clean', 'smudge', 'process'): at(d, 'config', f'filter.x.{k}', f'{trap("filter-"+k)}; cat')
    for k,v in {'diff.external': trap('external'), 'diff.x.textconv': trap('textconv'), 'credential.helper': f'!{trap("credential")}', 'gpg.program': trap('gpg'), 'protocol.ext.allow': 'always',
        'extensions.partialClone': 'origin', 'remote.origin.promisor': 'true', 'remote.origin.url': f"ext::sh -c 'touch% {ran}/fetch'", 'core.hooksPath': str(d/'hooks')}.items(): at(d, 'config', k, v)
    (d/'hooks').mkdir()
    for h in ('post-index-change', 'pre-auto-gc', 'fsmonitor-watchman', 'reference-transaction', 'post-checkout'):
        (d/'hooks'/h).write_text(f'#!/bin/sh\n{trap("hook-"+h)}\n', 'utf-8')
        (d/'hooks'/h).chmod(0o755)
    (d/'.git'/'info'/'attributes').write_text('* filter=x diff=x\n', 'utf-8')
    return ran

@pytest.fixture
def clone(tmp_path):
    "The package in a repository of its own."
    d = tmp_path/'clone'
    shutil.copytree(root/'pansharp_nb', d/'pansharp_nb', ignore=shutil.ignore_patterns('trained', '__pycache__'))
    (d/'nbs').mkdir()
    (d/'nbs'/'a.txt').write_text('one\ntwo\n', 'utf-8')
    at(tmp_path, 'init', '-q', d)
    at(d, 'add', '-A'), at(d, 'commit', '-qm', 'all')
    return d

def commit(clone, cwd=None, **env):
    p = subprocess.run([sys.executable, '-c', 'from pansharp_nb import settings; print(settings.commit())'], cwd=cwd or clone.parent, capture_output=True, encoding='utf-8', env=os.environ | dict(PYTHONPATH=str(clone)) | env)
    assert (p.returncode, p.stderr)==(0, ''), p.stderr
    return p.stdout.strip()

@needs_git
def test_provenance_is_of_the_packages_own_clone(clone):
    head = at(clone, 'rev-parse', 'HEAD')
    assert commit(clone)==head
    (clone/'nbs'/'a.txt').write_bytes(b'one\r\ntwo\r\n')
    (clone/'nbs'/'new.txt').touch()
    assert commit(clone)==head, 'line ends of Windows, and files that are not tracked, are no changes'
    (clone/'nbs'/'a.txt').write_text('one\nthree\n', 'utf-8')
    assert commit(clone)==head+'+changes'
    at(clone, 'add', '-A')
    assert commit(clone)==head+'+changes'
    at(clone, 'commit', '-qm', 'more')
    assert commit(clone)==at(clone, 'rev-parse', 'HEAD')!=head
    (clone/'nbs'/'a.txt').unlink()
    assert commit(clone).endswith('+changes')

@needs_git
def test_the_folder_we_stand_in_is_not_asked(clone, tmp_path):
    "A stranger's repository, full of traps; nor is the one that the environment names."
    d = tmp_path/'foreign'
    at(tmp_path, 'init', '-q', d)
    (d/'file').write_text('x', 'utf-8')
    at(d, 'add', '-A'), at(d, 'commit', '-qm', 'theirs')
    ran = traps(d)
    assert commit(clone, cwd=d)==at(clone, 'rev-parse', 'HEAD')
    assert commit(clone, cwd=d, GIT_DIR=str(d/'.git'), GIT_WORK_TREE=str(d), GIT_INDEX_FILE=str(d/'.git'/'index'))==at(clone, 'rev-parse', 'HEAD')
    assert not list(ran.iterdir())
    os.utime(d/'file')
    subprocess.run([git, '-C', d, 'status'], capture_output=True)
    assert list(ran.iterdir()), 'the traps are real: `git status` steps into them'

@needs_git
def test_a_clone_full_of_traps_runs_none(clone):
    ran,head = traps(clone),at(clone, 'rev-parse', 'HEAD')
    for f in (clone/'pansharp_nb').glob('*.py'): os.utime(f)
    assert commit(clone)==head
    tree = at(clone, 'rev-parse', 'HEAD:pansharp_nb')
    (clone/'.git'/'objects'/tree[:2]/tree[2:]).unlink()
    assert commit(clone)=='None', 'a tree that is not here is not fetched'
    assert not list(ran.iterdir())

@needs_git
def test_where_there_is_no_commit(clone, tmp_path):
    "No history yet, a package that the repository above does not track, no git, and a git in the folder we stand in."
    head,own = at(clone, 'rev-parse', 'HEAD'),dict(PATH=str(tmp_path/'nowhere'))
    assert commit(clone, **own)=='None'
    (tmp_path/'git').write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\n', 'utf-8')
    (tmp_path/'git').chmod(0o755)
    assert commit(clone, PATH=os.pathsep.join(['.', '']))=='None' and not (tmp_path/'ran').exists()
    assert commit(clone)==head
    shutil.rmtree(clone/'.git')
    at(tmp_path, 'init', '-q')
    assert commit(clone)=='None', 'the repository above is another'
    at(clone, 'init', '-q')
    assert commit(clone)=='None'

# ---- names in reports

mark = '<img src=x onerror=alert(1)>'
odd = [mark, '"><script>alert(1)</script>', "' onload='x", '</pre></details><script>', '&lt;b&gt;', 'a|b', 'c\\d', '$x^2_', '50 % & #1 ~ {y}', 'one\ntwo', '[go](javascript:alert(1))', '{{ 7*7 }}', '\x1b[31m\u202e']

def frame(names, **kw): return pd.DataFrame([dict(method=m, scene=s, sensor=('QB', 'WV2')[s==names[0]], protocol='reduced', metric=k, value=float(i+1), seed=0, profile='user', weights='-') | kw for i,m in enumerate(names) for s in names[:2] for k in ('ERGAS', 'PSNR')])

class Tags(HTMLParser):
    "What a browser would make of a page: tags with their attributes, and text."
    def __init__(self, page):
        super().__init__()
        self.seen,self.text = set(),''
        self.feed(page)
    def handle_starttag(self, tag, attrs): self.seen |= {tag} | {f'{tag} {k}' for k,_ in attrs}
    def handle_data(self, data): self.text += data

plain = Tags(reporting.save(mkdtemp(), 'p', 'T', frame(['a', 'b']), {}, {'c': 'A'}, ['n'], 'b', {'t': pd.DataFrame(dict(w=['words']))}).read_text('utf-8')).seen
def harmless(page): return Tags(page).seen<=plain | {f'th {k}' for k in ('rowspan', 'valign', 'colspan', 'halign')}

@pytest.mark.parametrize('name', odd, ids=ascii)
@pytest.mark.parametrize('where', ['method', 'scene', 'sensor', 'title', 'banner', 'said', 'note', 'caption', 'heading', 'column', 'index', 'cell', 'parameter', 'metric'])
def test_a_name_is_a_name_in_every_language(tmp_path, where, name):
    kw = dict(title='T', scores=frame(['EXP', 'GSA']), prov=dict(a=1), figures={}, notes=[], banner='', tables={}, said='')
    if where in ('method', 'scene', 'sensor', 'metric'): kw['scores'] = kw['scores'].replace({where: {'EXP': name, 'QB': name, 'PSNR': name}})
    elif where=='note': kw['notes'] = [name]
    elif where=='caption': kw['figures'] = {name: 'AAAA'}
    elif where=='parameter': kw['prov'] = {name: name}
    elif where in ('title', 'banner', 'said'): kw[where] = name
    else: kw['tables'] = {name if where=='heading' else 'H': pd.DataFrame({name if where=='column' else 'c': [name if where=='cell' else 'v', 'w'], 'n': [1, 2]}, index=pd.Index([name if where=='index' else 'i', 'j'], name=name if where=='index' else None))}
    page = reporting.save(tmp_path, 'p', **kw)
    html = page.read_text('utf-8')
    assert harmless(html) and (where=='metric' or reporting.plain(name) in ' '.join(Tags(html).text.split()) or where in ('caption', 'parameter'))
    md = page.with_suffix('.md').read_text('utf-8')
    rows = [l for l in md.splitlines() if l.startswith('|')]
    assert len({len(re.findall(r'(?<!\\)\|', l.replace('\\\\', ''))) for l in rows})<=len(kw['tables'])+1, 'a name makes no new cell'
    assert not re.search(r'<(img|script)|\]\(javascript', md)
    tex = page.with_suffix('.tex').read_text('utf-8').splitlines()
    assert tex[0].startswith('% ') and tex[1].startswith(r'\begin{tabular}') and tex[-1]==r'\end{tabular}'
    assert not any(re.search(r'(?<!\\)[#%]', l) for l in tex[1:])

def test_two_axes_of_names(tmp_path):
    "Tables with two levels of rows or columns, numbers among words, cells that are empty."
    two = pd.MultiIndex.from_product([[mark, 'b'], ['x|y', 'z']], names=[f'{mark}2', 'n'])
    f = pd.DataFrame(np.arange(4.), index=two, columns=[mark]).assign(word=[mark, None, 'c\\d', 'e'])
    for t in (f, f.T, f[['word']]):
        page = reporting.save(tmp_path, 'p', 'T', None, {}, tables={'t': t}, said='s')
        assert harmless(page.read_text('utf-8')) and mark not in page.with_suffix('.md').read_text('utf-8')
        assert r'c\textbackslash{}d' in page.with_suffix('.tex').read_text('utf-8')

def test_best_and_second_are_still_marked():
    text,rank = reporting.leaderboard(frame([mark, 'b|c', 'd']))
    assert f'<b>{1.:.3f}' in reporting.to_html(text, rank) and '**1.000' in reporting.to_md(text, rank) and r'\textbf{1.000' in reporting.to_tex(text, rank)
    assert list(text.index)==[mark, 'b|c', 'd']

@pytest.mark.parametrize('name', ['$a^', r'\frac{', mark, 'a\nb', '$\\input{x}$', '\x00'])
def test_a_picture_of_an_odd_name(name):
    "Names are no mathematics: a dollar is a dollar."
    import matplotlib.pyplot as plt, torch
    fig = reporting.strip(torch.rand(1, 32, 32), {name: torch.rand(4, 32, 32)}, torch.rand(4, 32, 32))
    assert reporting.jpeg(fig)
    plt.close('all')

def test_a_scene_with_markup_in_every_attribute(tmp_path):
    ds = made_up('QB', size=64).assign_attrs(name=mark, licence=mark, notes=mark, source=mark)
    from pansharp_nb.scoring import score
    scores = score(ds, methods='EXP,GSA')
    cap,fig = reporting.best_of_families(ds, scores, 'reduced')
    page = reporting.save(tmp_path, 'p', 'T', scores, {}, {cap: reporting.jpeg(fig)}, reporting.broken(scores), reporting.banner(scores, [ds]))
    assert harmless(page.read_text('utf-8')) and mark in cap and not reporting.is_free(ds)

# ---- licences

@pytest.mark.parametrize('licence', ['CC0', 'cc-0', 'CC0-1.0', 'CC0 1.0 Universal', 'Public Domain', 'US public domain', 'public domain (USGS)', 'Landsat public domain', 'CC BY 4.0', 'cc-by-4.0', 'CC_BY_4.0', 'CC BY-SA 4.0', 'CC-BY-SA-3.0',
    'Creative Commons Attribution 4.0 International', 'Creative Commons Attribution-ShareAlike 4.0 International License', 'https://creativecommons.org/licenses/by/4.0/', 'https://creativecommons.org/publicdomain/zero/1.0/deed.en', 'ODC-By 1.0', 'PDDL',
    'none needed', 'CC\u00a0BY 4.0', 'NAIP is US public domain (USDA); repo MIT', 'no licence file in repo; Landsat-8 data are US public domain (USGS)', 'SpaceNet-6 data CC BY-SA 4.0 (Maxar/SpaceNet); repo Apache-2.0 (c) CosmiQ'])
def test_free_licences(licence): assert granted(licence)

@pytest.mark.parametrize('licence', ['', ' ', 'unknown', 'not stated', 'CC BY-NC 4.0', 'CC BY-ND 4.0', 'CC BY-NC-SA 4.0', 'CC-BY-NC-ND-4.0', 'Creative Commons Attribution-NonCommercial 4.0', 'Creative Commons Attribution-NoDerivatives 4.0', 'cc by noncommercial',
    'https://creativecommons.org/licenses/by-nc/4.0/', 'https://creativecommons.org/licenses/by/4.0/?but=not', 'https://evil.example/licenses/by/4.0/', 'no licence file in repo; CC BY is not granted', 'not public domain', 'CC BY 4.0 pending', 'formerly CC0',
    'CC BY 4.0 (non-commercial use only)', 'public domain; no derivatives', 'CC0 except the imagery', 'CC BY 4.0; all rights reserved', 'no licence file in repo', 'repo MIT', 'MIT', 'Apache-2.0', 'GPL-3.0', 'research use only', 'as CC0', 'CC BY 9.9', 'CCBYNC',
    'no licence file in repo (all rights reserved by default); CC BY 4.0', 'MIT (repo); provenance of imagery not stated', 'GRIP-UNINA licence: nonprofit/research use only', 'CC-BY-4.0 AND LicenseRef-vendor', 'the public domain act does not apply'])
def test_licences_that_are_not_free(licence): assert not granted(licence) and not reporting.is_free(made_up('QB', size=64).assign_attrs(licence=licence))

def test_licences_of_the_scenes_that_lie_here(scenes):
    "Free are made public-domain and CC BY-SA scenes, and nothing else; a reference is followed to its end."
    said = {f.stem: licence_of(f) for f in sorted(scenes.glob('*.nc'))}
    free = {n for n,l in said.items() if granted(l)}
    assert not [n for n,l in said.items() if l.startswith('as ')]
    if len(said)>50: assert {n.split('_')[0] for n in free}=={'L8', 'NAIP', 'WV2'} and {n for n in free if n[0]=='W'}=={f'WV2_SN6_rotterdam{i}' for i in (1, 2, 3)}

def test_weights_are_as_free_as_the_least_of_their_scenes():
    a,b,c,d = ('a', 'CC0'), ('b', 'CC BY 4.0'), ('c', 'CC BY-SA 4.0'), ('d', 'CC BY-NC 4.0')
    assert [licence_of_weights(s) for s in ([a], [a, b], [a, b, c])]==['Apache-2.0', 'CC-BY-4.0', 'CC-BY-SA-4.0']
    assert all(licence_of_weights(s).startswith('research use only') for s in ([d], [a, d], [a, b, c, d])) and licence_of_weights([]).startswith('not stated')

def test_notice_and_front_page_say_so():
    for f in ('NOTICE', 'README.md'): assert 'for research' in ' '.join((root/f).read_text('utf-8').split())
    assert 'NOTICE' in tomllib.loads((root/'pyproject.toml').read_text('utf-8'))['project']['license-files']
    assert spdx('CC BY-SA 4.0') in (root/'NOTICE').read_text('utf-8')

# ---- held out

def alike(a, b, least=300): # largest correlation of two images over all places where they share that many pixels
    def high(x):
        ok = (x!=0).all(0).astype(float)
        g,w = x.mean(0)*ok,gaussian_filter(ok, 3).clip(1e-6)
        return (g-gaussian_filter(g, 3)/w)*ok, ok
    (x,m),(y,n) = high(a),[o[::-1, ::-1] for o in high(b)]
    size = [next_fast_len(i+j-1) for i,j in zip(x.shape, y.shape)]
    X,X2,M,Y,Y2,N = (rfft2(o, size) for o in (x, x*x, m, y, y*y, n))
    count,sx,sy,xy,xx,yy = (irfft2(o, size) for o in (M*N, X*N, M*Y, X*Y, X2*N, M*Y2))
    var = (xx-sx**2/count.clip(1)).clip(0)*(yy-sy**2/count.clip(1)).clip(0)
    return np.where((count>least-.5) & (var>1e-6*var.max()), (xy-sx*sy/count.clip(1))/np.sqrt(var.clip(1e-9)), 0).max()

def test_no_training_scene_shows_ground_of_a_test_scene(scenes):
    "Bands without their low frequencies, at every offset of whole pixels. Two cuts of one scene that share a strip of ten pixels are the control."
    def bands(f):
        with xr.open_dataset(f, engine='h5netcdf') as d: return d['gt' if 'gt' in d else 'ms'].values.astype(float), d.attrs['sensor'], d.attrs['split']
    all_ = {f.stem: bands(f) for f in sorted(scenes.glob('*.nc'))}
    pairs = [(t, n) for t,(_,s,p) in all_.items() if p=='test' for n,(_,s2,p2) in all_.items() if p2=='train' and s2==s]
    if not pairs: pytest.skip('other scenes')
    found = {p: alike(all_[p[0]][0], all_[p[1]][0]) for p in pairs}
    cuts = [alike(x[..., :len(x[0, 0])//2+10], x[..., len(x[0, 0])//2:]) for x,_,p in all_.values() if p=='test' and min(x.shape[1:])>99]
    assert max(found.values())<.8<.9<min(cuts), (max(found, key=found.get), max(found.values()), cuts)

# ---- downloads

class Files(http.server.SimpleHTTPRequestHandler):
    asked = 0
    def log_message(self, *_): pass
    def do_GET(self):
        type(self).asked += 1
        super().do_GET()

@pytest.fixture
def lab(tmp_path, monkeypatch):
    "A server on the loopback with one scene, and a list that names it: (its folder, where to, the row, the handler)."
    there,h = tmp_path/'there',type('H', (Files,), dict(asked=0))
    there.mkdir()
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), lambda *a: h(*a, directory=str(there)))
    threading.Thread(target=s.serve_forever, args=(.01,), daemon=True).start()
    rng = np.random.default_rng(0)
    scipy.io.savemat(there/'lab.mat', dict(I_MS=rng.integers(1, 2047, (16, 16, 4)), I_PAN=rng.integers(1, 2047, (64, 64))))
    row = dict(name='lab', how='download', sensor='IKONOS', licence='CC0', url=f'http://127.0.0.1:{s.server_port}/lab.mat', note='')
    monkeypatch.setattr(fetch, 'registry', lambda: [row])
    yield there, tmp_path/'here', row, h
    s.shutdown(), s.server_close()

def digest(f, kind): return hashlib.new(kind, f.read_bytes()).hexdigest()

@pytest.mark.parametrize('kind', ['sha256', 'md5', None])
def test_a_damaged_download_is_removed_and_fetched_anew(lab, kind):
    there,here,row,h = lab
    if kind: row[kind] = digest(there/'lab.mat', kind).upper()
    dst,raw = fetch.get('lab', here), here/'downloads'/'lab.mat'
    for i,harm in enumerate((lambda b: b[:-9], lambda b: b'', lambda b: b[:99]+bytes([b[99]^1])+b[100:], lambda b: b'<html>')):
        raw.write_bytes(harm(raw.read_bytes()))
        with pytest.raises(ValueError) as e: fetch.get('lab', here)
        one_line(e, raw, 'damaged', 'is removed', 'anew')
        assert not raw.exists() and fetch.get('lab', here)==dst and h.asked==i+2 and open_scene(dst).pan.shape==(64, 64)

@pytest.mark.parametrize('kind', ['sha256', 'md5'])
def test_what_is_not_the_pinned_file_is_not_kept(lab, kind):
    there,here,row,h = lab
    row[kind] = digest(there/'lab.mat', kind)
    good = (there/'lab.mat').read_bytes()
    (there/'lab.mat').write_bytes(good[:500])
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, 'lab', 'damaged on its way', 'nothing is kept')
    assert not list((here/'downloads').iterdir()) and not (here/'lab.nc').exists()
    (there/'lab.mat').write_bytes(good)
    assert open_scene(fetch.get('lab', here)).licence=='CC0'

@pytest.mark.parametrize('what', [b'', b'<html>Log in to the hotel</html>', b'MATLAB 5.0 MAT-file'+bytes(200), os.urandom(3000)], ids=['empty', 'page', 'head', 'noise'])
@pytest.mark.parametrize('end', ['mat', 'tar.gz'])
def test_a_first_download_that_holds_no_scene_does_not_stay(lab, what, end):
    there,here,row,h = lab
    good = (there/'lab.mat').read_bytes()
    row['url'] = row['url'].replace('mat', end)
    (there/f'lab.{end}').write_bytes(what)
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, f'lab.{end}', 'held no scene', 'is removed')
    assert not list((here/'downloads').iterdir())
    if end=='mat':
        (there/'lab.mat').write_bytes(good)
        assert open_scene(fetch.get('lab', here)).pan.shape==(64, 64)

def test_a_cut_archive(lab):
    there,here,row,h = lab
    with tarfile.open(there/'lab.tar.gz', 'w:gz') as t:
        info = tarfile.TarInfo('L8_B2.TIF')
        info.size = 10**5
        t.addfile(info, io.BytesIO(os.urandom(10**5)))
    (there/'lab.tar.gz').write_bytes((there/'lab.tar.gz').read_bytes()[:5*10**4])
    row['url'] = row['url'].replace('mat', 'tar.gz')
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, 'held no scene')

def test_an_archive_that_swells(lab, monkeypatch):
    there,here,row,h = lab
    with tarfile.open(there/'lab.tar.gz', 'w:gz') as t:
        info = tarfile.TarInfo('L8_B2.TIF')
        info.size = 10**6
        t.addfile(info, io.BytesIO(bytes(10**6)))
    monkeypatch.setattr(fetch, 'most', 10**5)
    row['url'] = row['url'].replace('mat', 'tar.gz')
    with pytest.raises(ValueError) as e: fetch.get('lab', here)
    one_line(e, 'unpack to more than')

def test_a_file_put_there_by_hand_is_left_there(lab):
    there,here,row,h = lab
    (here/'downloads').mkdir(parents=True)
    (here/'downloads'/'lab.mat').write_bytes(b'not what it says')
    for _ in range(2):
        with pytest.raises(ValueError) as e: fetch.get('lab', here)
        one_line(e, 'lab.mat')
        break
    assert (here/'downloads'/'lab.mat').exists() and h.asked==0

def test_the_list_says_what_is_pinned():
    t = fetch.listing()
    down = t[t.how=='download']
    assert set(down.check)<={'pinned', 'first download'} and (down.check=='pinned').any()
    assert ((down.check=='pinned')==(down.sha256.notna() | down.md5.notna())).all() and set(t[t.how!='download'].check)=={'-'}
    assert all(re.fullmatch('[0-9a-f]{32}', m) for m in t.md5.dropna())

@pytest.fixture
def full():
    "From here on no file grows beyond a kilobyte."
    resource = pytest.importorskip('resource')
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    def now(): resource.setrlimit(resource.RLIMIT_FSIZE, (1000, was[1]))
    yield now
    resource.setrlimit(resource.RLIMIT_FSIZE, was)

@pytest.mark.parametrize('what', ['made-up-IKONOS', 'lab', 'by hand'])
def test_a_full_disk_is_one_line(lab, full, capsys, monkeypatch, what):
    "HDF5 does not survive one, so what is written is made in memory first. Full at once, or for the scene only."
    there,here,row,h = lab
    if what=='made-up-IKONOS': monkeypatch.undo()
    if what=='by hand':
        (here/'downloads').mkdir(parents=True)
        shutil.copy(there/'lab.mat', here/'downloads')
    full()
    assert cli.main(['data', 'get', what if what!='by hand' else 'lab', '--folder', str(here)])==1
    err = capsys.readouterr().err
    assert err.count('\n')==1 and 'cannot write' in err and os.strerror(errno.EFBIG) in err and 'free some space' in err
    assert {f.name for f in here.rglob('*')}<={'downloads', 'lab.mat', 'lab.mat.sha256'} and not (here/'lab.nc').exists()

# ---- text is UTF-8

def opens(tree): # calls that open text and leave the alphabet to the machine
    for n in ast.walk(tree):
        if not isinstance(n, ast.Call) or 'encoding' in {k.arg for k in n.keywords}: continue
        f,args = n.func,[a.value if isinstance(a, ast.Constant) else '' for a in n.args]
        name = f.id if isinstance(f, ast.Name) else f.attr if isinstance(f, ast.Attribute) else ''
        mode = next((k.value.value for k in n.keywords if k.arg=='mode' and isinstance(k.value, ast.Constant)), None)
        on = f.value.id if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) else ''
        if name=='read_text' and not args or name=='write_text' and len(args)<2: yield n
        if isinstance(f, ast.Name) and name=='open' and 'b' not in str(mode or (args[1] if len(args)>1 else '')): yield n
        if name=='open' and on in ('Path', 'path', 'p', 'f', 'io') and 'b' not in str(mode or (args[0] if args else '')): yield n
        if name in ('NamedTemporaryFile', 'TemporaryFile', 'FileHandler', 'fdopen') and 'b' not in str(mode or 'b'): yield n
        if name=='read' and on in ('cfg', 'config', 'ours') and len(args)<2: yield n

sources = [*root.glob('tests/*.py'), *root.glob('benchmarks/*.py'), root/'nbs'/'conf.py', *(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)]

def cells(p): return [p.read_text('utf-8')] if p.suffix=='.py' else [c.source for c in nbformat.read(p, 4).cells if c.cell_type=='code']

def test_every_open_of_text_says_utf8():
    "Ruff's rule sees what it can tell to be a path; this one the rest."
    bad = [f'{p.relative_to(root)}: {ast.unparse(n)[:80]}' for p in sources for c in cells(p) for n in opens(ast.parse(re.sub(r'(?m)^\s*[%!].*$', '', c)))]
    snake = [l for l in (root/'nbs'/'Snakefile').read_text('utf-8').splitlines() if re.search(r'read_text\(\)|write_text\([^,]*\)|\bopen\(', l)]
    assert bad==[] and snake==[]
    assert 'PLW1514' in tomllib.loads((root/'pyproject.toml').read_text('utf-8'))['tool']['ruff']['lint']['select']

def test_the_rule_sees_opens():
    "The rule itself."
    seen = [bool(list(opens(ast.parse(s)))) for s in ('f.read_text()', "f.write_text('x')", "open('x')", "open('x', 'w')", "g.read_text('utf-8')", "f.write_text('x', 'utf-8')", "open('x', 'rb')", "open('x', encoding='utf-8')", "rasterio.open('x')")]
    assert seen==[True]*4 + [False]*5

def test_another_alphabet_changes_nothing():
    "A machine whose alphabet is ASCII reads claims, numbers, settings and cards all the same."
    code = "from pansharp_nb import settings, weights; from pansharp_nb.papers import claims; print(len(claims.claims()), len(weights.listing()), ascii(settings.config()['paths']['data']))"
    env = os.environ | dict(LC_ALL='C', LANG='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONPATH=str(root))
    p = subprocess.run([sys.executable, '-c', code], cwd=root, env=env, capture_output=True, encoding='utf-8')
    assert p.returncode==0 and int(p.stdout.split()[0])>100, p.stderr[-2000:]

# ---- what each extra holds

def imports(p): # the import statements of a notebook, one a line
    return [ast.unparse(n) for c in cells(p) for n in ast.parse(re.sub(r'(?m)^\s*[%!].*$', '', c)).body if isinstance(n, (ast.Import, ast.ImportFrom))]

def nbs(kind): return {str(p.relative_to(root)): imports(p) for p in sources if p.suffix=='.ipynb' and (p.parent.name in ('tables', 'figures'))==(kind=='reports')}

with_an_extra = """import closure, json, os, sys
def fails(extra, lines):
    closure.only(closure.declared(extra))
    bad = {}
    for where,words in lines.items():
        try: exec('\\n'.join(words), {})
        except Exception as e: bad[where] = f'{type(e).__name__}: {e}'
    return bad
job,to = json.load(sys.stdin),sys.argv[1]
for extra,lines in job.items(): # the first has none; the others are its children, since an import cannot be undone
    if extra and os.fork(): os.wait()
    else:
        with open(f'{to}/{extra}.json', 'w', encoding='utf-8') as f: json.dump(fails(extra, lines), f)
        if extra: os._exit(0)
"""

@pytest.fixture(scope='module')
def held(tmp_path_factory):
    "Where imports fail with an extra alone; one process for all extras."
    if not hasattr(os, 'fork'): pytest.skip('no fork on this system')
    files = [p for p in sorted((root/'pansharp_nb').rglob('*.py')) if p.name!='_modidx.py']
    mods = {m: [f'import {m}'] for p in files for m in ['.'.join(p.relative_to(root).with_suffix('').parts).removesuffix('.__init__')]}
    texts = ['from pansharp_nb.prompts import offline_embedder as e', 'assert e().embed(["sea"]).shape==(1, 384)']
    needs = {'': mods, 'train': {'train': ['import pansharp_nb.training, lightning, tensorboard']}, 'prompt': {'prompts build': texts},
        'repro': mods | nbs('reports') | {'all': ['import snakemake.cli'], 'texts': texts}, 'pages': nbs('pages')}
    d,env = tmp_path_factory.mktemp('held'),os.environ | dict(PYTHONPATH=str(root))
    p = subprocess.run([sys.executable, '-c', with_an_extra, d], input=json.dumps(needs), cwd=root/'tests', env=env, capture_output=True, encoding='utf-8')
    assert p.returncode==0, p.stderr[-3000:]
    return {e: json.loads((d/f'{e}.json').read_text('utf-8')) for e in needs}

def test_without_extras_all_but_training_imports(held):
    assert set(held[''])<={f'pansharp_nb.{m}' for m in ('training', 'papers.ablations', 'papers.boards', 'papers.claims')} and all("'lightning'" in why for why in held[''].values())

@pytest.mark.parametrize('extra', ['train', 'prompt', 'repro', 'pages'])
def test_an_extra_holds_what_its_command_needs(held, extra): assert held[extra]=={}

def test_what_is_imported_is_asked_for():
    "A package that the code imports stands in pyproject itself, not only behind another."
    base,every = (closure.closure([]) | {closure._name(closure.Requirement(r).name) for e in es for r in closure.declared(e)} for es in ([''], ['', 'train', 'prompt', 'repro']))
    tops = closure._tops()
    for p in sources:
        if p.suffix!='.ipynb' or p.parent.name in ('tables', 'figures'): continue
        for c in cells(p):
            if '#| export' not in c: continue
            tree = ast.parse(c)
            for n in ast.walk(tree):
                names = [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module] if isinstance(n, ast.ImportFrom) and not n.level else []
                for top in {m.partition('.')[0] for m in names} - sys.stdlib_module_names - {'pansharp_nb', 'triton'}:
                    assert tops[top] & (base if n in tree.body and p.name!='training.ipynb' else every | {'transformers'}), f'{p.name} imports {top}'

def test_the_hook_hides_and_shows():
    "What is outside cannot be imported, found or asked for its version; what is inside can."
    code = """import closure, importlib.metadata as m, importlib.util as u
mine = closure.only(['pandas'])
import pandas
for what in ('torch', 'pytest', 'yaml'):
    assert u.find_spec(what) is None
    try: __import__(what)
    except ModuleNotFoundError as e: assert e.name==what
    else: raise SystemExit(what)
assert 'numpy' in mine and m.version('numpy') and 'torch' not in {d.name for d in m.distributions()}
closure.only(['pandas', 'pyyaml'])
import yaml"""
    p = subprocess.run([sys.executable, '-c', code], cwd=root/'tests', capture_output=True, encoding='utf-8')
    assert p.returncode==0, p.stderr[-2000:]

def test_extras_that_stand_on_each_other():
    d = closure.closure
    assert d(['pansharp-nb[train]'])==d(closure.declared('train')) | {'pansharp-nb'} > d(['pansharp-nb']) and 'lightning' in d(['pansharp-nb[repro]']) & d(['pansharp-nb[dev]'])
    assert not {'lightning', 'snakemake', 'tokenizers'} & d(['pansharp-nb']), 'who only scores does not install them'
    assert 'colorama' not in d(['pansharp-nb']) or os.name=='nt', 'markers count'
