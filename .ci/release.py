"""What is handed out: the wheel in an empty environment, and the container's steps where there is no docker.

    python .ci/release.py             build and try both; exit status 1 if something is wrong
    python .ci/release.py --report F  the same, and write what was checked to F (json: name -> list of troubles)

The wheel is built from what a clone holds, by way of the source archive, and installed into an environment of its own: this one's
packages are lent to it, the repository and its editable install are not. The Dockerfile is read and followed line by line: what it
copies, installs, who runs it, its health check and its entry point; only downloads are left out, and the image's size is computed.
"""
import argparse, json, os, re, shutil, subprocess, sys, sysconfig, tempfile, time, urllib.error, urllib.request
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE_MB = 150 # python:3.12-slim, unpacked
MAX_MB = 3000
CUDA = re.compile(r'(nvidia-|triton|cuda-)')

def run(*cmd, cwd=None, env=None, timeout=300):
    "Run a command; what it said, and a RuntimeError with that where it fails"
    p = subprocess.run([str(o) for o in cmd], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, errors='replace', timeout=timeout)
    if p.returncode: raise RuntimeError(f'{" ".join(map(str, cmd))}: exit status {p.returncode}\n{p.stdout[-1500:]}')
    return p.stdout

def environment(**more):
    "The environment without anything that leads to the repository"
    return {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'IN_TEST')} | more

def clone(folder):
    "Copy what a clone would hold, with what is not committed yet"
    names = run('git', '-c', 'safe.directory=*', 'ls-files', '-co', '--exclude-standard', cwd=ROOT).splitlines()
    for o in names:
        if not (ROOT/o).is_file(): continue
        (folder/o).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT/o, folder/o)
    return folder

def fresh(folder, made):
    "An environment in `folder` with the wheel `made` installed, to which this one's packages are lent; its Python"
    run(sys.executable, '-m', 'venv', folder)
    py = folder/'bin'/'python'
    run(py, '-m', 'pip', 'install', '-q', '--no-deps', '--disable-pip-version-check', made, env=environment())
    # a plain line is put on the path and its own .pth files are not read: no editable install comes along
    site = Path(run(py, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', env=environment()).strip())
    (site/'lent.pth').write_text('\n'.join(dict.fromkeys((sysconfig.get_path('purelib'), sysconfig.get_path('platlib'))))+'\n')
    return py

INSIDE = """
import json, os, sys
from pathlib import Path
import messi_anything
here = Path(messi_anything.__file__).resolve().parent
files = {p.relative_to(here).as_posix(): p.stat().st_size for p in here.rglob('*') if p.is_file() and '__pycache__' not in p.parts}
from messi_anything import replace
from messi_anything.pipeline import example_photo
photo = example_photo()
r = replace(photo, seed=0)
print(json.dumps(dict(here=str(here), files=files, path=sys.path, done=r.done, same=list(r.image.getdata())==list(photo.getdata()))))
"""

def wheel(tmp):
    "Build the wheel and use it; yield what is wrong"
    src, out, away = clone(tmp/'clone'), tmp/'dist', tmp/'away'
    away.mkdir()
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, src, env=environment())
    made, = out.glob('*.whl')
    print(f'{made.name}: {made.stat().st_size/2**20:.0f} MB')
    py = fresh(tmp/'wheel', made)
    shutil.rmtree(src)
    said = json.loads(run(py, '-c', INSIDE, cwd=away, env=environment()).splitlines()[-1])
    if not Path(said['here']).is_relative_to((tmp/'wheel').resolve()): yield f'what was imported is {said["here"]}, not what the wheel installed'
    if any(o and Path(o).resolve() in (ROOT, ROOT/'nbs') for o in said['path']): yield 'the repository is on the path'
    for f in sorted((ROOT/'messi_anything').rglob('*')):
        name = f.relative_to(ROOT/'messi_anything').as_posix()
        if f.is_file() and '__pycache__' not in f.parts and said['files'].get(name) != f.stat().st_size: yield f'{name} is not in the wheel, or of another size'
    if not any(o.endswith('.safetensors') for o in said['files']): yield 'no weights in the wheel'
    if said['same'] or 'replaced' not in said['done'][0]: yield f'nobody was replaced: {said["done"]}'
    run(tmp/'wheel'/'bin'/'messi_replace', '--seed', '0', cwd=away, env=environment())
    if not list(away.glob('messi_*.png')): yield 'messi_replace wrote no picture'

# The container

def instructions():
    "(word, rest) of each instruction of the Dockerfile"
    txt = re.sub(r'\\\n\s*', ' ', (ROOT/'Dockerfile').read_text(encoding='utf-8'))
    return [tuple(o.split(None, 1)) for o in txt.splitlines() if o.strip() and not o.startswith('#')]

def sent(name):
    "Whether .dockerignore lets `name` through to the build; the last rule that fits decides"
    out = True
    for rule in (ROOT/'.dockerignore').read_text(encoding='utf-8').split():
        if fnmatch(name, rule.lstrip('!')): out = rule.startswith('!')
    return out

def copied(rest, app):
    "Do one COPY into `app`; yield what is wrong"
    *names, to = rest.split()
    for o in names:
        if not sent(o): yield f'COPY {o}: .dockerignore keeps it out'
        elif not (ROOT/o).exists(): yield f'COPY {o}: there is no such file'
        elif (ROOT/o).is_dir(): shutil.copytree(ROOT/o, app/to, ignore=shutil.ignore_patterns('__pycache__'))
        else: shutil.copyfile(ROOT/o, app/to/o)

def weight(name, extra='', seen=None):
    "Bytes of each package that `name` needs, by name; of PyTorch what its CPU build has"
    from packaging.requirements import Requirement
    seen = {} if seen is None else seen
    key = re.sub(r'[-_.]+', '-', name).lower()
    if key in seen or CUDA.match(key): return seen
    dist = metadata.distribution(name)
    files = [o.locate() for o in dist.files or [] if not re.search(r'(cuda|nvrtc|nvshmem|cupti)[^/]*\.so', str(o))]
    seen[key] = sum(o.stat().st_size for o in files if o.is_file())
    for o in map(Requirement, dist.requires or []):
        if o.marker is None or o.marker.evaluate({'extra': extra}): weight(o.name, '', seen)
    return seen

def ask(url, token='', photo=None):
    "Status and body of a GET, or of a POST with a photo"
    head, data = {}, None
    if token: head['Authorization'] = f'Bearer {token}'
    if photo:
        head['Content-Type'] = 'multipart/form-data; boundary=cut'
        data = b'--cut\r\nContent-Disposition: form-data; name="photo"; filename="photo.png"\r\nContent-Type: image/png\r\n\r\n'+photo+b'\r\n--cut--\r\n'
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, head), timeout=120) as r: return r.status, r.read()
    except urllib.error.HTTPError as e: return e.code, e.read()

def nobody(py):
    "How to start a process as a user without rights, as the image has one; nothing where we are none ourselves, or where such a user cannot run `py`"
    if os.getuid(): return {}
    as_user = dict(user=65534, group=65534, extra_groups=[])
    try: subprocess.run([py, '-c', ''], cwd='/', check=True, capture_output=True, **as_user)
    except (OSError, subprocess.CalledProcessError):
        print('this Python lies where only root can read it: the service is tried as root')
        return {}
    return as_user

def service(cmd, health, home, bin_, photo):
    "Start the entry point as the container's user would, and ask it; yield what is wrong"
    as_user = nobody(bin_/'python')
    env = environment(HOME=str(home), PATH=f'{bin_}:{os.environ["PATH"]}', MESSI_TOKEN='secret', PYTHONUNBUFFERED='1', MPLCONFIGDIR=str(home/'mpl'))
    log = home/'log'
    with log.open('w') as f: p = subprocess.Popen([*cmd, '--port', '0'], cwd=home, env=env, stdin=subprocess.DEVNULL, stdout=f, stderr=f, **as_user)
    try:
        end, url = time.time()+90, None
        while not url and time.time() < end and p.poll() is None:
            time.sleep(.5)
            url = re.search(r'http://\S+:(\d+)', log.read_text())
        if not url: return (yield f'the entry point did not start:\n{log.read_text()[-1500:]}')
        at, port = f'http://127.0.0.1:{url[1]}', url[1]
        probe = [str(o).replace(':8000/', f':{port}/') for o in health]
        for wait in (1, 2, 4, 8, 0):
            rc = subprocess.run(probe, env=env, cwd=home, capture_output=True, **as_user).returncode
            if not rc or not wait: break
            time.sleep(wait)
        if rc: yield f'the health check ends with status {rc}'
        if (s := ask(at+'/')[0]) != 200: yield f'the page: status {s}'
        if (s := ask(at+'/replace', photo=photo)[0]) != 401: yield f'/replace without the token: status {s}, not 401'
        s, body = ask(at+'/replace', 'secret', photo)
        if s != 200 or not body.startswith(b'\x89PNG'): yield f'/replace with the token: status {s}, {body[:200]}'
    finally:
        p.terminate()
        try: p.wait(20)
        except subprocess.TimeoutExpired: p.kill()

def container(tmp):
    "Follow the Dockerfile without docker; yield what is wrong"
    app, home, py = tmp/'app', tmp/'home', None
    app.mkdir()
    home.mkdir()
    home.chmod(0o777)
    steps, user, health, entry = instructions(), 'root', None, None
    for word, rest in steps:
        if word == 'COPY': yield from copied(rest, app)
        elif word == 'RUN' and "'.[serve]'" in rest: 
            run(sys.executable, '-m', 'build', '--no-isolation', '--wheel', '--outdir', tmp/'built', app, env=environment())
            py = fresh(tmp/'image', next((tmp/'built').glob('*.whl')))
        elif word == 'USER': user = rest
        elif word == 'HEALTHCHECK': health = json.loads(rest[rest.index('['):])
        elif word == 'ENTRYPOINT': entry = json.loads(rest)
    if user == 'root': yield 'it would run as root'
    if not (py and health and entry): return (yield f'RUN pip install, HEALTHCHECK or ENTRYPOINT is missing: {[o[0] for o in steps]}')
    shutil.rmtree(app)
    inside = run(py, '-c', 'import messi_anything; print(messi_anything.__path__[0])', cwd=home, env=environment()).strip()
    if not list(Path(inside).rglob('*.safetensors')): yield 'no weights inside'
    sizes = weight('messi-anything', 'serve')
    sizes['messi-anything'] = sum(o.stat().st_size for o in Path(inside).rglob('*') if o.is_file())
    mb = sum(sizes.values())/2**20+BASE_MB
    print(f'container: {mb:.0f} MB computed, {len(sizes)} packages')
    if mb > MAX_MB: yield f'{mb:.0f} MB, more than {MAX_MB}'
    bin_ = py.parent
    run(py, '-c', "from messi_anything.pipeline import example_photo; example_photo().save('photo.png')", cwd=home, env=environment())
    opened = [o for o in (tmp, *tmp.parents) if o.stat().st_uid == os.getuid() and not o.stat().st_mode & 1]
    for o in opened: o.chmod(o.stat().st_mode | 0o111)
    try: yield from service([bin_/entry[0], *entry[1:]], [bin_/health[0], *health[1:]], home, bin_, (home/'photo.png').read_bytes())
    finally:
        for o in opened: o.chmod(o.stat().st_mode & ~0o011)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--report', help='file for the result')
    args = ap.parse_args()
    res = {}
    with tempfile.TemporaryDirectory() as tmp:
        for name, f in {'the wheel works in an empty environment': wheel, "the container's steps, one by one": container}.items():
            start = time.time()
            try: res[name] = list(f(Path(tmp)))
            except (RuntimeError, subprocess.TimeoutExpired, OSError, ValueError, KeyError) as e: res[name] = [f'{type(e).__name__}: {e}']
            print(('ok      ' if not res[name] else 'FAILED  ')+f'{name}, {time.time()-start:.0f} s')
            for o in res[name]: print('          '+o)
    if args.report: Path(args.report).write_text(json.dumps(res, indent=1), encoding='utf-8')
    sys.exit(any(res.values()))

if __name__ == '__main__': main()
