"""Encryption of what lies on disk."""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.encryption import FileCipher, add_key, cipher_of, read_keys
from e2i_serving.exceptions import ConfigurationError, EncryptionError
from e2i_serving.relay.payloads import open_payload, seal_payload
from e2i_serving.settings import Settings

SECRET = b"the patient's name"


@pytest.fixture
def key_file(tmp_path) -> Path:
    """A file with one key."""
    path = tmp_path / "keys"
    add_key(path)
    return path


@pytest.fixture
def cipher(key_file) -> FileCipher:
    """A cipher with one key."""
    return FileCipher(key_file)


def line(number: int, secret: bytes = b"k" * 32) -> str:
    """A line of a key file."""
    return f"{number} {base64.b64encode(secret).decode()}\n"


def written(path: Path, content: str, mode: int = 0o600) -> Path:
    """A key file with this content."""
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    return path


def test_what_is_encrypted_is_read_again(cipher):
    """Bytes of any kind come back, and do not stand in what is written."""
    for data in (SECRET, bytearray(SECRET), memoryview(SECRET), b""):
        encrypted = cipher.encrypt("life-1", data)
        assert SECRET not in encrypted
        assert len(encrypted) == 12 + len(data) + 16
        assert cipher.decrypt(1, "life-1", encrypted) == bytes(data)


def test_the_same_is_never_encrypted_alike(cipher):
    """Each nonce is new."""
    assert len({cipher.encrypt("life-1", SECRET) for _ in range(1000)}) == 1000


def test_another_context_reads_nothing(cipher):
    """What was encrypted for one life can't be passed off as another's."""
    with pytest.raises(EncryptionError, match="'life-2' with key 1 can't be read"):
        cipher.decrypt(1, "life-2", cipher.encrypt("life-1", SECRET))


def test_another_key_of_the_same_number_reads_nothing(cipher, tmp_path):
    """Whose key file was lost can't read with a new one."""
    add_key(tmp_path / "others")
    with pytest.raises(EncryptionError, match="not the one that encrypted it"):
        FileCipher(tmp_path / "others").decrypt(1, "life-1", cipher.encrypt("life-1", SECRET))


@pytest.mark.parametrize("place", [0, 11, 12, 20, -16, -1])
def test_a_flipped_bit_is_found(cipher, place):
    """Nonce, content and tag are all protected."""
    altered = bytearray(cipher.encrypt("life-1", SECRET))
    altered[place] ^= 1
    with pytest.raises(EncryptionError):
        cipher.decrypt(1, "life-1", bytes(altered))


@pytest.mark.parametrize("length", [0, 1, 12, 27])
def test_a_cut_off_text_is_found(cipher, length):
    """What is too short to be anything is no other error."""
    with pytest.raises(EncryptionError):
        cipher.decrypt(1, "life-1", cipher.encrypt("life-1", SECRET)[:length])


def test_an_older_key_still_reads(key_file, cipher):
    """After a rotation the new key encrypts, and what the old one encrypted is readable."""
    old = cipher.encrypt("life-1", SECRET)
    assert add_key(key_file).number == 2
    rotated = FileCipher(key_file)
    assert rotated.key_id == 2
    assert rotated.decrypt(1, "life-1", old) == SECRET
    assert rotated.decrypt(2, "life-1", rotated.encrypt("life-1", SECRET)) == SECRET
    with pytest.raises(EncryptionError):
        rotated.decrypt(2, "life-1", old)


def test_a_key_added_later_is_found(key_file, cipher):
    """A relay that runs on through a rotation reads what workers encrypt with the new key; its own stays."""
    add_key(key_file)
    encrypted = FileCipher(key_file).encrypt("life-1", SECRET)
    assert cipher.decrypt(2, "life-1", encrypted) == SECRET
    assert cipher.key_id == 1


def test_a_key_is_found_once_its_file_may_be_read_again(key_file, cipher):
    """Who mends the file's mode, as the message says, needs not start the relay again."""
    add_key(key_file)
    encrypted = FileCipher(key_file).encrypt("life-1", SECRET)
    key_file.chmod(0o644)
    with pytest.raises(EncryptionError, match="chmod 600"):
        cipher.decrypt(2, "life-1", encrypted)
    key_file.chmod(0o600)
    assert cipher.decrypt(2, "life-1", encrypted) == SECRET


def test_a_missing_key_says_which(key_file, cipher):
    """What can't be read for want of a key says which, and where it is looked for."""
    with pytest.raises(EncryptionError, match=f"Key 7 is not in {key_file}"):
        cipher.decrypt(7, "life-1", b"x" * 40)
    key_file.write_text("nothing", encoding="utf-8")
    with pytest.raises(EncryptionError, match="is no key"):
        cipher.decrypt(7, "life-1", b"x" * 40)
    key_file.unlink()
    with pytest.raises(EncryptionError, match="can't be read"):
        cipher.decrypt(7, "life-1", b"x" * 40)


def test_a_new_file_is_its_owners_alone(key_file):
    """The file is made for its owner, and stays so."""
    assert key_file.stat().st_mode & 0o777 == 0o600
    add_key(key_file)
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key_file.parent.iterdir()] == ["keys"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    """The error says what to run."""
    path = written(tmp_path / "keys", line(1), mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        FileCipher(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        ("1\n", "Line 1 .* is no key"),
        ("0 " + line(1)[2:], "Line 1 .*<number from 1>"),
        ("4294967296 " + line(1)[2:], "Line 1 .*<number from 1>"),
        (line(1) + "\n" + line(2, b"short"), "Line 3 .* has 5 bytes, not 32"),
        ("1 ====\n", "not base64"),
        (line(1) + line(1, b"z" * 32), "two keys the same number"),
    ],
)
def test_a_wrong_file_says_where(tmp_path, content, said):
    """Each error names the line, and none shows a key."""
    with pytest.raises(ConfigurationError, match=said) as raised:
        read_keys(written(tmp_path / "keys", content))
    assert "a2tra2" not in str(raised.value)


def test_comments_and_blank_lines_are_passed_over(tmp_path):
    """A file may say what it is."""
    keys = read_keys(written(tmp_path / "keys", f"# ours\n\n{line(3).strip()} # 2026-01-01\n{line(1, b'a' * 32)}"))
    assert [(key.number, key.made) for key in keys] == [(3, "2026-01-01"), (1, "")]
    assert "kkk" not in repr(keys[0])
    assert "a2tra2" not in repr(keys[0])


def test_the_settings_choose(key_file):
    """Without a key file nothing is encrypted."""
    assert cipher_of(Settings()) is None
    chosen = cipher_of(Settings(encryption_key_file=key_file))
    assert chosen is not None
    assert chosen.key_id == 1
    with pytest.raises(ConfigurationError, match="can't be read"):
        cipher_of(Settings(encryption_key_file=key_file.with_name("none")))


@pytest.fixture
def keys(tmp_path):
    """Run ``e2i-serving keys`` on a key file."""
    path = tmp_path / "made" / "keys"

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments, "--file", str(path)])
        assert result.exit_code == code, result.output
        return result.output

    return run, path


def test_the_command_makes_and_lists_keys(keys):
    """Keys are listed by number and time, the one that encrypts first, and never shown."""
    run, path = keys
    assert "Key 1 is now the first" in run("new")
    assert "Key 2 is now the first" in run("new")
    listed = [json.loads(row) for row in run("list", "--format", "json").splitlines()]
    assert [(row["number"], row["encrypts"]) for row in listed] == [(2, True), (1, False)]
    assert all(row["made"].endswith("Z") for row in listed)
    shown = run("list") + str(listed)
    for written_line in path.read_text(encoding="utf-8").splitlines():
        assert written_line.split()[1] not in shown


def test_the_command_says_when_no_file_is_named():
    """Neither an option nor a setting names the file."""
    result = CliRunner().invoke(app, ["keys", "list"])
    assert result.exit_code == 2
    assert "give --file, or set encryption_key_file" in result.output.replace("\n", " ")


def test_the_command_encrypts_again(keys, tmp_path):
    """After it, the older key is needed for nothing, and what was plain is plain no more."""
    run, path = keys
    run("new")
    data_dir = tmp_path / "data"
    folder = data_dir / "payloads" / "ab"
    folder.mkdir(parents=True)
    (folder / "ab01").write_bytes(seal_payload(SECRET, FileCipher(path)))
    (folder / "ab02").write_bytes(seal_payload(SECRET, None))
    with closing(sqlite3.connect(data_dir / "ledger.db")) as ledger:
        ledger.execute("PRAGMA journal_mode=WAL")
        ledger.execute("CREATE TABLE dead_letters (id INTEGER PRIMARY KEY, life TEXT, key_id INTEGER, payload BLOB)")
        letters = [("life-1", 1, FileCipher(path).encrypt("life-1", SECRET)), ("life-2", 0, SECRET)]
        ledger.executemany("INSERT INTO dead_letters (life, key_id, payload) VALUES (?, ?, ?)", letters)
        ledger.commit()
    run("new")
    assert "key 2: 2 payload files, 2 dead letters" in run("reencrypt", "--data-dir", str(data_dir))
    assert "key 2: 0 payload files, 0 dead letters" in run("reencrypt", "--data-dir", str(data_dir))

    path.write_text(path.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    only_new = FileCipher(path)
    assert [open_payload(each.read_bytes(), only_new) for each in sorted(folder.iterdir())] == [SECRET, SECRET]
    with closing(sqlite3.connect(data_dir / "ledger.db")) as ledger:
        for life, key_id, payload in ledger.execute("SELECT life, key_id, payload FROM dead_letters"):
            assert only_new.decrypt(key_id, life, payload) == SECRET
    assert not [each for each in data_dir.rglob("*") if each.is_file() and SECRET in each.read_bytes()]


def test_encrypting_again_stops_at_what_it_cannot_read(keys, tmp_path):
    """A payload whose key is gone stays as it is."""
    run, path = keys
    run("new")
    folder = tmp_path / "data" / "payloads" / "ab"
    folder.mkdir(parents=True)
    (folder / "ab01").write_bytes(before := seal_payload(SECRET, FileCipher(path)))
    path.write_text(line(9), encoding="utf-8")
    assert "Key 1 is not in" in run("reencrypt", "--data-dir", str(tmp_path / "data"), code=2).replace("\n", " ")
    assert [each.read_bytes() for each in folder.iterdir()] == [before]
    assert "no data directory" in run("reencrypt", "--data-dir", str(tmp_path / "none"), code=2)
