"""A certificate authority made with openssl, for tests over TLS."""

import subprocess

from . import tools

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """`ca` signs `certificate` (with `key`) for 127.0.0.1, ::1, localhost and names under s3.test."""

    def __init__(self, folder):
        self.ca = str(folder / "ca.pem")
        self.key = str(folder / "server.key")
        self.certificate = str(folder / "server.pem")
        request, authority_key, extensions = folder / "server.csr", folder / "ca.key", folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost,DNS:s3.test,DNS:*.s3.test\n"
                              "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
        _openssl("req", "-x509", *CURVE, "-keyout", authority_key, "-out", self.ca, "-days", "30",
                 "-subj", "/CN=twintree test authority")
        _openssl("req", *CURVE, "-keyout", self.key, "-out", request, "-subj", "/CN=localhost")
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", authority_key, "-CAcreateserial",
                 "-days", "30", "-extfile", extensions, "-out", self.certificate)


class Leaf:
    """A certificate (with `key`) for the names of `alternatives`, signed by `ca`, the one authority of the folder."""

    def __init__(self, folder, name, alternatives, subject=None, usage="serverAuth"):
        folder.mkdir(exist_ok=True)
        self.ca = str(folder / "leaves-ca.pem")
        self.key, self.certificate = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
        request, authority_key, extensions = folder / f"{name}.csr", folder / "leaves-ca.key", folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\nbasicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n")
        if not authority_key.exists():
            _openssl("req", "-x509", *CURVE, "-keyout", authority_key, "-out", self.ca, "-days", "30", "-subj", "/CN=authority of leaves")
        _openssl("req", *CURVE, "-keyout", self.key, "-out", request, "-subj", f"/CN={subject or name}")
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", authority_key, "-CAcreateserial", "-days", "30", "-extfile", extensions, "-out", self.certificate)


def _openssl(*words):
    tools.need("openssl")
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
