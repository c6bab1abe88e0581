"""Sending to another host: a real sshd and rsync, which are killed, full, strange, and lie."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import needs
import pytest
import xxhash
from site_under_test import Site, running
from ssh_host import Host, other_host

from srctd.adapters.remote import Parcel, Remote
from srctd.core.errors import DigestMismatch, HoldError, NotPermitted, RemoteUnavailable
from srctd.core.scan import FileEntry
from srctd.sim.writer import SimulationSpec, simulate

MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with other_host(tmp_path / "host") as host:
        yield host


def task_of(folder: Path, contents: dict[str, bytes]) -> tuple[FileEntry, ...]:
    """Files in a task folder, as they are sent."""
    files = []
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digest = xxhash.xxh3_128_hexdigest(content)
        files.append(FileEntry(path=name, size=len(content), mtime_ns=path.stat().st_mtime_ns, digest=digest))
    return tuple(files)


def a_parcel(folder: Path, contents: dict[str, bytes], **changes: object) -> Parcel:
    given = {
        "source": str(folder),
        "place": f"visitors/{folder.name}",
        "files": task_of(folder, contents),
        "whole": True,
    }
    return Parcel(**{**given, **changes})


def deliver(host: Host, parcel: Parcel, **target: object) -> int:
    return asyncio.run(Remote(host.target(**target), 1).deliver(parcel))


def tree(folder: Path) -> dict[str, object]:
    """Content of every file below a folder, hidden ones too; of links, where they lead."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


ODD = {
    "input/a.h5": os.urandom(3 * MIB + 1),
    "input/-rf": b"dash",
    'input/it\'s "raw"/$(touch x) `y` *?;&.tif': b"quotes",
    "input/ä ö\u2028\u0301.tif": b"unicode",
    "input/%h %n #1": b"",
    "manifest.xxh128": b"list",
}


def test_a_folder_appears_whole_and_equal_whatever_its_names(host: Host, tmp_path: Path) -> None:
    parcel = a_parcel(tmp_path / "it's a -scan; $HOME", ODD)
    sent = deliver(host, parcel)
    assert tree(host.folder / parcel.place) == ODD
    assert sent == sum(map(len, ODD.values()))
    assert os.listdir(host.folder / "visitors") == [Path(parcel.source).name]
    modes = {oct(path.stat().st_mode)[-4:] for path in (host.folder / "visitors").rglob("*")}
    assert modes == {"0750", "0640"}
    assert deliver(host, parcel) == 0, "all of it is there"
    assert os.listdir(host.folder / "visitors") == [Path(parcel.source).name]


def test_results_join_the_folder_and_the_list_of_them_comes_last(host: Host, tmp_path: Path) -> None:
    task = tmp_path / "scan"
    with pytest.raises(HoldError, match="visitors/scan is not there any more"):
        deliver(host, a_parcel(task, {"record.json": b"{}"}, whole=False))
    assert not os.listdir(host.folder)
    deliver(host, a_parcel(task, {"input/a": b"a", "manifest.json": b"{}"}))
    results = {"output/volume.h5": os.urandom(MIB), "record.json": b"{}", "results.xxh128": b"list"}
    assert deliver(host, a_parcel(task, results, whole=False)) == MIB + 6
    assert tree(host.folder / "visitors") == {f"scan/{name}": content for name, content in tree(task).items()}
    again = results | {"record.json": b"{1}", "results.xxh128": b"more"}
    assert deliver(host, a_parcel(task, again, whole=False)) == 7, "only what is new"
    assert tree(host.folder / "visitors") == {f"scan/{name}": content for name, content in tree(task).items()}


def test_a_member_s_link_is_sent_after_what_it_leads_to(host: Host, tmp_path: Path) -> None:
    leader, member = tmp_path / "s-m000", tmp_path / "s-m001"
    member.mkdir()
    (member / "input").symlink_to("../s-m000/input")
    of_member = a_parcel(member, {"manifest.json": b"1"}, links=("input",), after="visitors/s-m000")
    with pytest.raises(RemoteUnavailable, match=r"s-m001 waits for visitors/s-m000"):
        deliver(host, of_member)
    deliver(host, a_parcel(leader, {"input/a": b"a"}))
    deliver(host, of_member)
    assert (host.folder / "visitors/s-m001/input/a").read_bytes() == b"a"
    assert os.readlink(host.folder / "visitors/s-m001/input") == "../s-m000/input"


def test_files_left_in_place_are_sent_themselves(host: Host, tmp_path: Path) -> None:
    raw, task = tmp_path / "raw", tmp_path / "scan"
    files = task_of(raw, {"input/a": b"a", "input/other": b"not of this scan"})
    task.mkdir()
    (task / "input").symlink_to(raw / "input")
    deliver(host, a_parcel(task, {}, files=files[:1]))
    assert tree(host.folder / "visitors") == {"scan/input/a": b"a"}
    assert not (host.folder / "visitors/scan/input").is_symlink()


# --- proof ------------------------------------------------------------------------------------------------


async def damaged(host: Host, parcel: Parcel, damage: list[bytes]) -> int:
    """Deliver, while the other host's disk changes a file each time something was sent."""

    class Bad(Remote):
        async def _send(self, *args: object) -> int:  # type: ignore[override]
            sent = await super()._send(*args)  # type: ignore[arg-type]
            if damage:
                path = host.folder / parcel.part / "input/a"
                times = path.stat()
                path.write_bytes(damage.pop())
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            return sent

    return await Bad(host.target(), 1).deliver(parcel)


@pytest.mark.parametrize("program", [True, False], ids=["xxh128sum", "rsync alone"])
def test_a_file_that_is_damaged_there_is_sent_once_more_then_held(
    host: Host, tmp_path: Path, program: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not program:
        monkeypatch.setattr("srctd.core.remote.digest", lambda place: ["exit 44"])
    good, bad = os.urandom(MIB), os.urandom(MIB)
    parcel = a_parcel(tmp_path / "scan", {"input/a": good, "input/b": b"b"})
    asyncio.run(damaged(host, parcel, [bad]))
    assert (host.folder / "visitors/scan/input/a").read_bytes() == good
    shutil.rmtree(host.folder / "visitors")
    with pytest.raises(DigestMismatch) as caught:
        asyncio.run(damaged(host, parcel, [bad, bad]))
    sentence = caught.value.sentence
    assert "visitors/.scan.part/input/a" in sentence
    assert xxhash.xxh3_128_hexdigest(good) in sentence
    assert (xxhash.xxh3_128_hexdigest(bad) in sentence) is program
    assert not (host.folder / "visitors/scan").exists()


def test_another_folder_of_that_name_is_left_alone(host: Host, tmp_path: Path) -> None:
    parcel = a_parcel(tmp_path / "scan", {"input/a": b"a"})
    (host.folder / "visitors/scan/input").mkdir(parents=True)
    (host.folder / "visitors/scan/input/a").write_bytes(b"precious")
    assert "move the folder away there" in said(host, parcel, DigestMismatch)
    assert (host.folder / "visitors/scan/input/a").read_bytes() == b"precious"


# --- interrupted ------------------------------------------------------------------------------------------


def held_of(host: Host) -> int:
    """Bytes of the large file that came over so far."""
    path = host.folder / "visitors/.scan.part/input/large"
    return path.stat().st_size if path.exists() else 0


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def gone_ssh(host: Host) -> bool:
    """Whether no ssh or rsync to the host is left on this side."""
    told = subprocess.run(
        ["pgrep", "-f", f'IdentityFile="{host.keys}/user"'], capture_output=True, check=False
    )
    return not told.stdout.split()


@pytest.mark.parametrize("how", ["session", "canceled"])
def test_an_interrupted_transfer_goes_on_where_it_was(host: Host, tmp_path: Path, how: str) -> None:
    large = os.urandom(24 * MIB)
    slow = a_parcel(tmp_path / "scan", {"input/large": large, "input/b": b"b"}, megabytes_per_second=12.0)

    async def interrupt() -> None:
        sending = asyncio.create_task(Remote(host.target(), 1).deliver(slow))
        await until(lambda: held_of(host) > 8 * MIB)
        if how == "session":
            host.cut()
            with pytest.raises(RemoteUnavailable, match=r"127\.0\.0\.1.*broke off"):
                await sending
        else:
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert gone_ssh(host), "nothing is left behind"
        await until(lambda: not host.children())

    asyncio.run(interrupt())
    there = held_of(host)
    assert there > 8 * MIB
    assert not (host.folder / "visitors/scan").exists()
    sent = deliver(host, a_parcel(tmp_path / "scan", {"input/large": large, "input/b": b"b"}))
    assert sent <= len(large) + 1 - there + MIB, "what had come over was not sent again"
    assert (host.folder / "visitors/scan/input/large").read_bytes() == large


def test_killed_between_the_last_byte_and_the_rename(host: Host, tmp_path: Path) -> None:
    class Killed(Remote):
        async def _let_appear(self, *_: object) -> None:
            raise asyncio.CancelledError

    parcel = a_parcel(tmp_path / "scan", {"input/a": os.urandom(MIB)})
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Killed(host.target(), 1).deliver(parcel))
    assert deliver(host, parcel) == 0, "it was all there"
    assert os.listdir(host.folder / "visitors") == ["scan"]
    results = a_parcel(tmp_path / "scan", {"output/v": os.urandom(MIB), "results.xxh128": b""}, whole=False)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Killed(host.target(), 1).deliver(results))
    assert deliver(host, results) == 0
    assert tree(host.folder / "visitors/scan") == tree(tmp_path / "scan")


# --- what is said -----------------------------------------------------------------------------------------


def said(host: Host, parcel: Parcel, error: type[Exception], **target: object) -> str:
    with pytest.raises(error) as caught:
        deliver(host, parcel, **target)
    sentence = caught.value.sentence
    assert "127.0.0.1" in sentence
    assert "\n" not in sentence
    return sentence


def test_every_trouble_is_one_sentence(host: Host, tmp_path: Path) -> None:
    parcel = a_parcel(tmp_path / "scan", {"input/a": b"a"})
    other = tmp_path / "known"
    other.write_text(host.known_hosts.read_text().replace("127.0.0.1", "127.0.0.9"))
    assert "host key" in said(host, parcel, NotPermitted, known_hosts_file=str(other))
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(keygen, check=True)
    changed = (tmp_path / "key.pub").read_text()
    other.write_text(f"[127.0.0.1]:{host.port} {changed}")
    assert "host key" in said(host, parcel, NotPermitted, known_hosts_file=str(other))
    assert "authorized_keys" in said(host, parcel, NotPermitted, identity_file=str(tmp_path / "key"))
    (host.keys / "user").chmod(0o644)
    assert "chmod 600" in said(host, parcel, NotPermitted)
    (host.keys / "user").chmod(0o600)
    assert "is it mounted there" in said(host, parcel, RemoteUnavailable, folder="/no/such")
    host.folder.joinpath("visitors").write_text("a file")
    said(host, parcel, RemoteUnavailable)
    host.folder.joinpath("visitors").unlink()
    host.stop()
    assert "Connection refused" in said(host, parcel, RemoteUnavailable)
    for name in ("bash", "sh", "mkdir", "du", "df"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(needs.program(name))
    host.start(f"SetEnv=PATH={tmp_path}/bin")
    assert "install rsync" in said(host, parcel, HoldError)


def test_the_host_is_described(host: Host) -> None:
    good, sentence = asyncio.run(Remote(host.target(), 1).describe())
    assert good
    assert "rsync 3." in sentence
    assert "xxh128sum" in sentence
    assert "GB free" in sentence


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB of its own."""
    needs.root()
    mkfs = needs.program("mkfs.ext4")
    image, mount = tmp_path / "image", tmp_path / "small"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    mount.mkdir()
    subprocess.run([mkfs, "-q", "-F", str(image)], check=True)
    if subprocess.run(
        ["mount", "-o", "loop", str(image), str(mount)], capture_output=True, check=False
    ).returncode:
        needs.missing("loop mounts are not possible here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_there_is_said_before_and_in_the_middle(
    host: Host, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = a_parcel(tmp_path / "scan", {"input/a": os.urandom(20 * MIB)})
    folder = {"folder": str(small_disk)}
    assert "needs 0.02" in said(host, parcel, RemoteUnavailable, **folder)
    assert tree(small_disk) == {}
    monkeypatch.setattr(Remote, "_require_room", lambda *_: None)
    assert "its disk is full" in said(host, parcel, RemoteUnavailable, **folder)
    assert not (small_disk / "visitors/scan").exists()


# --- the whole daemon -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "phantom.nxs"
    simulate(SimulationSpec(rows=24, columns=96, angles=90, flats=5, darks=5), str(path))
    return path


def same_trees(site: Site, host: Host) -> bool:
    return tree(site.shared / "visitors") == tree(host.folder / "visitors")


def checked(site: Site) -> str:
    command = [sys.executable, "-m", "srctd", "check", "--config", str(site.config)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_the_other_host_has_the_same_tree_at_the_end(host: Host, scan_file: Path, tmp_path: Path) -> None:
    """While it is down nothing waits for it, and when it is up all goes there."""
    site = Site(tmp_path / "site")
    site.config.write_text(site.config.read_text() + host.config())
    host.stop()
    with running(site):
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        scan = site.scan("retrying")
        site.until(
            lambda: site.ask("scan", scan=scan["scan"])["steps"]["publish"]["status"] == "done", "published"
        )
        steps = site.ask("scan", scan=scan["scan"])["steps"]
        assert "Connection refused" in steps["send"]["reason"]
        assert steps["send_results"]["status"] == "waiting"
        simulate(
            SimulationSpec(rows=24, columns=96, angles=90, flats=5, darks=5, seed=2),
            str(site.detector / "phantom.nxs"),
        )
        site.until(lambda: site.ask("status")["scans_total"] == 2, "a second revision")
        host.start()
        newest = Path(site.scan("done", count=2)["folder"])
        assert same_trees(site, host), "the first revision, too: it was published before it was replaced"
        check = ["xxh128sum", "--quiet", "-c", "manifest.xxh128", "results.xxh128"]
        subprocess.run(check, cwd=host.folder / "visitors" / Path(scan["folder"]).name, check=True)
        site.ask("retry", scan="phantom.nxs", step="preview")
        site.until(lambda: (newest / "results-2.xxh128").exists(), "the second run ended")
        site.scan("done", count=2)
        assert same_trees(site, host)
        assert "sends to root@127.0.0.1" in checked(site)
        host.stop()
        (host.keys / "user").unlink()
        told = checked(site)
        assert "! root@127.0.0.1" in told
        assert "Connection refused" in told
        assert f"! {host.keys}/user of [remote] is not there" in told


def test_the_daemon_is_killed_while_it_sends(host: Host, tmp_path: Path) -> None:
    """The file has another name in the copy than at the detector, and the same there as in the copy."""
    site = Site(tmp_path / "site", watch="copy_megabytes_per_second = 2.0")
    site.config.write_text(site.config.read_text() + host.config())
    with running(site):
        simulate(
            SimulationSpec(rows=16, columns=256, angles=200, flats=5, darks=5),
            str(site.detector / "phan:tom.nxs"),
        )
        site.copied("phan:tom.nxs")
        site.until(lambda: [*host.folder.glob("visitors/.*.part/input/*")], "it is being sent")
        site.kill()
    asyncio.run(until(lambda: gone_ssh(host) and not host.children()))
    assert not [*host.folder.glob("visitors/[!.]*")]
    with running(site):
        site.scan("done")
        assert same_trees(site, host)
    names = [path.name for path in host.folder.glob("visitors/*/input/*")]
    assert len(names) == 1
    assert ":" not in names[0]
