"""Follow the README's two commands and check everything that must be true of the repository. Run by .ci/run, in a fresh environment.

Counted: each notebook that nbdev_test ran, each module imported before the tests' tools were installed, and each other check.
Only Python's own library is used here, since the first check runs before anything is installed.
"""
import ast, collections, json, os, re, signal, subprocess, sys, tempfile, time
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TMP = Path(os.environ.get('CI_TMP') or tempfile.mkdtemp())
LIMIT = 1500 # seconds that one command may take
MAX_MB = 2
counts = collections.defaultdict(lambda: [0, 0])

# Running and counting

def check(kind, name, bad=()):
    "Count one check of `kind` and print it with its list of troubles"
    bad = [bad] if isinstance(bad, str) else list(bad)
    counts[kind][bool(bad)] += 1
    print(('ok      ' if not bad else 'FAILED  ') + name)
    for o in bad: print('          ' + str(o).strip().replace('\n', '\n          '))
    return not bad

def run(cmd, show=True):
    "Run the shell command `cmd` in the repository's root; its exit status and its output"
    if show: print(f'\n$ {cmd}')
    start = time.time()
    p = subprocess.Popen(['bash', '-c', cmd], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, errors='replace', start_new_session=True)
    def stop(*_):
        print(f'stopped after {LIMIT} s')
        os.killpg(p.pid, signal.SIGKILL)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    out = []
    try:
        for line in p.stdout:
            out.append(line)
            if show: print(line, end='')
        rc = p.wait()
    except BaseException: # we are being stopped ourselves: take the command along
        os.killpg(p.pid, signal.SIGKILL)
        raise
    finally: signal.alarm(0)
    if show: print(f'# status {rc} after {time.time()-start:.0f} s\n')
    return rc, ''.join(out)

def python(code, cwd=ROOT):
    "What `code` prints as json, run by the fresh environment's Python; None if it fails"
    p = subprocess.run([sys.executable, '-c', code], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return json.loads(p.stdout.splitlines()[-1]) if p.returncode == 0 else None

# git

def git(*args, **env):
    return subprocess.run(['git', '-c', 'safe.directory=*', *args], cwd=ROOT, env={**os.environ, **env}, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip()

def status(): return git('status', '--porcelain').splitlines()

def tree():
    "A name for the content of every file that git does not ignore"
    index = TMP/'index'
    index.unlink(missing_ok=True)
    git('add', '-A', GIT_INDEX_FILE=str(index))
    return git('write-tree', GIT_INDEX_FILE=str(index))

def unchanged(name, before):
    "Check that the files are still those of the tree `before`"
    now = tree()
    check('check', name, [] if now == before else git('diff', '--stat', before, now))
    return now

# The README's commands

def readme_commands():
    "The two commands under the README's heading Install"
    md = (ROOT/'README.md').read_text(encoding='utf-8')
    m = re.search(r'^## Install[^\n]*\n(.*?)(?=^## |\Z)', md, re.S | re.M)
    return re.findall(r'^```sh\n(.*?)\n```', m[1] if m else '', re.S | re.M)

IMPORTS = """
import importlib, importlib.util, json, pkgutil, sys, traceback
import messi_anything
def attempt(f, name):
    for k in [k for k in sys.modules if k.split('.')[0] == 'messi_anything']: del sys.modules[k]
    try: f(name)
    except BaseException: return traceback.format_exc(limit=-3)
def names(_):
    for o in importlib.import_module('messi_anything').__all__: getattr(sys.modules['messi_anything'], o)
mods = [m.name for m in pkgutil.walk_packages(messi_anything.__path__, 'messi_anything.')]
res = {m: attempt(importlib.import_module, m) for m in mods}
res['messi_anything'] = attempt(names, None)
tools = [o for o in ('nbdev', 'execnb', 'nbconvert') if importlib.util.find_spec(o)]
print(json.dumps(dict(modules=res, tools=tools)))
"""

def first_command(cmd):
    "Install and run: the pictures must be there, and nothing that git would see"
    def pictures(): return {p: p.stat().st_mtime_ns for p in ROOT.iterdir() if p.suffix.lower() in ('.png', '.jpg', '.jpeg', '.webp')}
    before, had = tree(), pictures()
    rc, _ = run(cmd)
    check('check', f'README: {cmd}', [] if rc == 0 else f'exit status {rc}')
    made = [p for p, t in pictures().items() if had.get(p) != t]
    code = f'import json; from PIL import Image\nfor p in {[str(p) for p in made]}: Image.open(p).load()\nprint(json.dumps(True))'
    check('check', f'messi_replace wrote {", ".join(sorted(p.name for p in made)) or "its pictures"}',
          'no new picture in the current folder' if not made else [] if python(code) else 'not every one of them opens')
    unchanged('git sees nothing new after it', before)
    for p in made:
        if p not in had: p.unlink()
    found = python(IMPORTS, cwd=TMP)
    if found is None: return check('module', 'import messi_anything', 'failed before any tool for the tests was installed')
    check('check', 'no tool for the tests is installed yet', found['tools'])
    for name, bad in sorted(found['modules'].items()): check('module', f'import {name}', bad or [])

NOTEBOOKS = """
import json
from pathlib import Path
from fastcore.basics import str2bool
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor
from nbdev.test import _keep_file
root = get_config().config_path
def runs(f): return not str2bool(getattr(NBProcessor(f, procs=FrontmatterProc, process=True).nb, 'frontmatter_', {}).get('skip_exec', False))
files = [f.absolute() for f in sorted(nbglob(as_path=True)) if _keep_file(f, '.notest')]
print(json.dumps({f.relative_to(root).as_posix(): runs(f) for f in files}))
"""

def second_command(cmd):
    "Install what tests need, and test: one check for each notebook that really ran"
    before = tree()
    rc, out = run(cmd)
    check('check', f'README: {cmd}', [] if rc == 0 else f'exit status {rc}')
    nbs = python(NOTEBOOKS)
    if nbs is None: return check('notebook', 'nbdev_test', 'nbdev cannot be started')
    m = re.search(r'nbdev Tests Failed On The Following Notebooks:\n=+\n((?:\t\S.*\n?)+)', out)
    failed = {o.strip() for o in m[1].splitlines()} if m else set()
    if rc and not m: failed = {Path(o).name for o in nbs} # it broke down before it could say which
    if not rc and not re.search(r'^Success\.$', out, re.M): failed = {Path(o).name for o in nbs}
    for o, runs in nbs.items():
        if not runs: print(f'not run {o} (skip_exec in its title cell)')
        else: check('notebook', f'test {o}', 'see above' if Path(o).name in failed else [])
    check('check', 'there are notebooks to test', [] if any(nbs.values()) else 'none found')
    unchanged('git sees nothing new after the tests', before)

EXAMPLES = """
from PIL import Image
from messi_anything import replace
from messi_anything.pipeline import example_photo
photo = example_photo().convert('RGB')
photo.save('photo.jpg', quality=95)
small = photo.crop((60, 0, 380, 320))
small.save('clip.gif', save_all=True, append_images=[small.rotate(3), small.rotate(-3)], duration=100)
replace(photo, mode='head').save('messi_photo.png')
print('true')
"""

def table_commands():
    "The commands in the README's table of what it does"
    rows = re.findall(r'^\|[^|]*\|([^|\n]*`messi_[^\n]*)\|$', (ROOT/'README.md').read_text(encoding='utf-8'), re.M)
    return [o for row in rows for o in re.findall(r'`(messi_\w+[^`]*)`', row)]

def serves(cmd, folder):
    "Whether a server of ours comes up and answers"
    import urllib.error, urllib.request
    env = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    p = subprocess.Popen(f'{cmd} --port 0', shell=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, start_new_session=True, env=env)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(p.pid, signal.SIGKILL))
    signal.alarm(600)
    said = []
    try:
        for line in p.stdout:
            said.append(line)
            url = re.search(r'http://\S+', line)
            if not url: continue
            for wait in (1, 2, 4, 8, 16, 32, 0): # it says where it will listen, and then begins to
                try:
                    with urllib.request.urlopen(url[0], timeout=300) as r: return [] if r.status == 200 else f'{url[0]}: status {r.status}'
                except urllib.error.URLError as e:
                    if not wait or p.poll() is not None or not isinstance(e.reason, ConnectionError): raise
                    time.sleep(wait)
        return ''.join(said) or 'it said nothing'
    except OSError as e: return f'{e}: {"".join(said)}'
    finally:
        signal.alarm(0)
        if p.poll() is None: os.killpg(p.pid, signal.SIGTERM)
        p.wait()

def table():
    "Every command of the README's table, word for word; those that want photos of people, which are not ours to ship, tell their help"
    folder = TMP/'table'
    folder.mkdir()
    if not check('check', 'README: example files for its commands', [] if python(EXAMPLES, cwd=folder) else 'they could not be made'): return
    commands = table_commands()
    check('check', 'README has a table of commands', [] if len(commands) > 10 else f'{len(commands)} found')
    for cmd in commands:
        if cmd in ('messi_serve', 'messi_studio'): check('check', f'README: {cmd}', serves(cmd, folder))
        else:
            words = cmd.split()
            real = f'{words[0]} --help' if any(o.isupper() for o in words[1:]) else cmd
            rc, out = run(f'cd "{folder}" && {real}', show=False)
            check('check', f'README: {cmd}', [] if rc == 0 else f'exit status {rc}\n{out[-1500:]}')

def fuzz():
    "Broken input, some 1,500 cases: each must end in a result or in a sentence"
    rc, out = run('python .ci/fuzz.py', show=False)
    last = out.strip().splitlines()[-1:] or ['it said nothing']
    print(f'fuzz: {last[0]}')
    check('check', 'broken input ends in a result or in a sentence', [] if rc == 0 else out[-3000:])

def release():
    "The wheel in an empty environment, and the container's steps"
    report = TMP/'release.json'
    rc, out = run(f'python .ci/release.py --report "{report}"')
    if not report.exists(): return check('check', 'the wheel can be built', out or f'exit status {rc}')
    for name, bad in json.loads(report.read_text()).items(): check('check', name, bad)

# The files

def config():
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']

def notebooks(): return sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(ROOT).parts))

def cells(p): return json.loads(p.read_text(encoding='utf-8'))['cells']

def source(cell): return ''.join(cell['source'])

def default_exp(p):
    for c in cells(p):
        if c['cell_type'] == 'code' and (m := re.search(r'^\s*#\|\s*default_exp\s+(\S+)', source(c), re.M)): return m[1]

def outputs(cell):
    "Every piece of text in the saved outputs of `cell`"
    for o in cell.get('outputs', []):
        if o['output_type'] == 'stream': yield ''.join(o['text'])
        for kind, data in o.get('data', {}).items():
            if kind.startswith('text/') or 'svg' in kind or 'json' in kind:
                yield re.sub(r'base64,[A-Za-z0-9+/=\s]+', '', ''.join(data) if isinstance(data, (str, list)) else json.dumps(data))

PLACES = re.compile(r'(?<![\w.:/~-])(?:/(?:home|Users|root|work|tmp|private|opt|mnt|media|scratch|content|workspace|data)/[\w.-]+|[A-Z]:\\+\w)[^\s"\']*')
HOMES = re.compile(r'(?<![\w.:/~-])(?:/(?:home|Users|root)/\w+|[A-Z]:\\+Users)[^\s"\']*')

def mixed_imports(src):
    "Whether nbdev's site build would run this cell for its import, and other code with it"
    try: body = list(ast.walk(ast.parse(re.sub(r'^\s*[%!].*', '', src, flags=re.M))))
    except SyntaxError: return False
    return any(isinstance(o, (ast.Import, ast.ImportFrom)) for o in body) and any(isinstance(o, (ast.Expr, ast.Assign)) for o in body)

def notebook_troubles(p):
    "What must not stand in the notebook `p`"
    if (mb := p.stat().st_size/2**20) > MAX_MB: yield f'{mb:.1f} MB, more than {MAX_MB}'
    cs = cells(p)
    title = source(cs[0]) if cs else ''
    if not cs or cs[0]['cell_type'] != 'markdown' or not title.startswith('# '): yield 'the first cell is not a title'
    elif (rest := [o for o in title.splitlines()[1:] if o.strip() and not re.match(r'>|- [\w-]+:', o)]):
        yield f'the title cell holds more than title, blockquote and settings, and the site would lose it: {rest[0][:60]}'
    for i, c in enumerate(cs):
        src, at = source(c), f'cell {i}'
        if m := HOMES.search(src): yield f'{at}: path of one machine: {m[0][:80]}'
        if c['cell_type'] != 'code': continue
        if any(o['output_type'] == 'error' for o in c['outputs']): yield f'{at}: a saved error'
        for txt in outputs(c):
            if m := PLACES.search(txt): yield f'{at}: its output holds a path of one machine: {m[0][:80]}'
            if 'shared/data' in txt or 'site-packages' in txt: yield f'{at}: its output names a folder outside the repository'
            if re.search(r'Traceback \(most recent call last\)', txt): yield f'{at}: a saved error'
            if re.search(r'\r|\d%\||\bit/s\b|\bs/it\b', txt): yield f'{at}: a saved progress bar'
        exempt = re.search(r'^#\|\s*(export|eval:\s*false)', src, re.M) or 'nbdev_export(' in src
        if not exempt and mixed_imports(src): yield f'{at}: imports beside other code; the site would run it all: give them a cell of their own'

def module_troubles():
    "Notebooks and modules must belong together"
    exps = collections.defaultdict(list)
    for p in notebooks():
        if name := default_exp(p): exps[name].append(p)
    for name, ps in exps.items():
        if len(ps) > 1: yield f'{name} is the default_exp of {" and ".join(p.name for p in ps)}'
        if ps[0].stem.partition('_')[2] != name: yield f'{ps[0].name} exports to {name}: one name for both'
    lib = ROOT/config()['lib_path']
    have = {p.relative_to(lib).with_suffix('').as_posix().replace('/', '.') for p in lib.rglob('*.py')} - {'__init__', '_modidx'}
    for o in sorted(have - set(exps)): yield f'messi_anything/{o}.py belongs to no notebook'
    for o in sorted(set(exps) - have): yield f'{exps[o][0].name} has no module {o}.py'
    numbers = collections.Counter(m[1] for p in notebooks() if (m := re.match(r'(\d+[a-z]?)_', p.name)))
    for o, n in numbers.items():
        if n > 1: yield f'{n} notebooks have the number {o}'

def order_troubles():
    "A module imports only from modules with a smaller number"
    number = {default_exp(p): p.stem.partition('_')[0] for p in notebooks() if default_exp(p)}
    for name in number:
        f = ROOT/config()['lib_path']/f'{name}.py'
        if not f.exists(): continue
        for o in ast.walk(ast.parse(f.read_text(encoding='utf-8'))):
            if isinstance(o, ast.ImportFrom) and (o.level or (o.module or '').startswith('messi_anything')):
                mod = (o.module or '').removeprefix('messi_anything').strip('.').split('.')[0]
                for used in [mod] if mod else [a.name for a in o.names]:
                    if used in number and number[used] >= number[name]: yield f'{name} ({number[name]}) imports from {used} ({number[used]})'

READERS = {'imread', 'read_image', 'decode_image', 'default_loader', 'verify'}

def reader_troubles():
    "Pictures are opened with the list of raster formats only: other readers call programs, or open what is inside a file"
    for f in sorted((ROOT/config()['lib_path']).glob('*.py')):
        tree = ast.parse(f.read_text(encoding='utf-8'))
        ours = {o.name for o in tree.body if isinstance(o, ast.FunctionDef)}
        for o in ast.walk(tree):
            if isinstance(o, ast.ImportFrom) and (o.module or '').startswith('messi_anything') or isinstance(o, ast.ImportFrom) and o.level:
                ours |= {a.name for a in o.names}
        for o in ast.walk(tree):
            if not isinstance(o, ast.Call): continue
            name, of = getattr(o.func, 'attr', getattr(o.func, 'id', '')), getattr(getattr(o.func, 'value', None), 'id', '')
            bare = name == 'open' and of in ('Image', 'PILImage', 'PIL') and not any(k.arg == 'formats' for k in o.keywords)
            if bare or name in READERS and (of or name not in ours): yield f'{f.name}, line {o.lineno}: {of+"."*bool(of)}{name} without formats=: use open_image or load_image'

MOST_PARAMETERS = 12

def parameter_troubles():
    "A public function has at most a dozen parameters; the rest are options of a config, see nbs/004_options.ipynb"
    for f in sorted((ROOT/config()['lib_path']).glob('*.py')):
        tree = ast.parse(f.read_text(encoding='utf-8'))
        inside = [m for c in tree.body if isinstance(c, ast.ClassDef) for m in c.body]
        for o in tree.body+inside:
            if not isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef)) or o.name.startswith('_') and o.name!='__init__': continue
            n = len([a for a in o.args.posonlyargs+o.args.args+o.args.kwonlyargs if a.arg not in ('self','cls')])
            if n>MOST_PARAMETERS: yield f'{f.name}, line {o.lineno}: {o.name} has {n} parameters, more than {MOST_PARAMETERS}'

TOP = {'nbs', 'messi_anything', 'settings.ini', 'setup.py', '_quarto.yml', 'README.md', 'LICENSE', 'MANIFEST.in',
       'environment.yml', 'Dockerfile', '.dockerignore', 'CHANGELOG.md', 'CITATION.cff', 'SECURITY.md',
       '.ci', '.github', '.gitignore', '.gitattributes'}

def files():
    "Everything about the files as they lie there"
    for p in notebooks(): check('check', f'look over {p.relative_to(ROOT)}', notebook_troubles(p))
    check('check', 'notebooks and modules belong together', module_troubles())
    check('check', 'modules import only from lower numbers', order_troubles())
    check('check', 'pictures are opened by the list of raster formats', reader_troubles())
    check('check', 'no public function has more than a dozen parameters', parameter_troubles())
    known = {o.split('/')[0] for o in git('ls-files', '-co', '--exclude-standard').splitlines()}
    check('check', 'the top level holds what it should', [f'{o}: not in the list' for o in sorted(known - TOP)] + [f'{o}: missing' for o in sorted(TOP - known)])

def tools():
    "Export, clean, README and site must give what is there already"
    before = tree()
    rc, _ = run('nbdev_export')
    check('check', 'nbdev_export', [] if rc == 0 else f'exit status {rc}')
    now = unchanged('nbdev_export changes nothing', before)
    rc, _ = run('nbdev_clean')
    check('check', 'nbdev_clean', [] if rc == 0 else f'exit status {rc}')
    now = unchanged('nbdev_clean changes nothing', now)
    rc, out = run('pip check')
    check('check', 'the installed packages fit together', [] if rc == 0 else out)
    rc, out = run('python .ci/readme.py --check')
    check('check', 'README.md is what index.ipynb gives', [] if rc == 0 else out)
    rc, out = run('python .ci/environment.py --check')
    check('check', 'environment.yml is what settings.ini gives', [] if rc == 0 else out)
    report = TMP/'site.json'
    rc, out = run(f'python .ci/site.py --report "{report}" >"{TMP}/site.log" 2>&1 || {{ cat "{TMP}/site.log"; false; }}')
    if not report.exists(): check('check', 'the site can be built', out or f'exit status {rc}')
    else:
        for name, bad in json.loads(report.read_text()).items(): check('check', name, bad)
        report = TMP/'preview.json'
        rc, out = run(f'python .ci/preview.py --report "{report}"', show=False)
        if not report.exists(): check('check', 'pandoc can read the pages', out or f'exit status {rc}')
        else:
            bad = [f'{name}: {o}' for name, said in json.loads(report.read_text()).items() for o in said]
            check('check', 'pandoc reads every page without a complaint', bad)
    unchanged('building the site changes nothing', now)

def everything():
    start, dirty = time.time(), status()
    print(f'Python {sys.version.split()[0]}, {len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()} cores')
    if dirty: print(f'{len(dirty)} files are not committed: "changes nothing" means against what lies here now')
    cmds = readme_commands()
    if check('check', 'README has two commands under Install', [] if len(cmds) == 2 else f'{len(cmds)} found'):
        first_command(cmds[0])
        second_command(cmds[1])
        table()
        fuzz()
        release()
        tools()
    files()
    if not dirty: check('check', 'git status is empty', status())
    print(f'\n{time.time()-start:.0f} s')

def main():
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try: everything()
    except Exception as e: check('check', 'every check could be made', f'{type(e).__name__}: {e}')
    print('; '.join(f'{kind}s: {ok} passed, {bad} failed' for kind, (ok, bad) in counts.items()))
    ok, bad = (sum(o[i] for o in counts.values()) for i in (0, 1))
    print(f'{ok} passed, {bad} failed')
    sys.exit(bad > 0 or not ok)

if __name__ == '__main__': main()
