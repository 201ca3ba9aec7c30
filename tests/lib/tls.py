"""A certificate authority made with openssl, for tests over TLS."""

import subprocess

from . import tools


class Authority:
    """`ca` signs `certificate` (with `key`) for 127.0.0.1, ::1, localhost and names under s3.test."""

    def __init__(self, folder):
        self.ca = str(folder / "ca.pem")
        self.key = str(folder / "server.key")
        self.certificate = str(folder / "server.pem")
        request, authority_key, extensions = folder / "server.csr", folder / "ca.key", folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost,DNS:s3.test,DNS:*.s3.test\n"
                              "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl("req", "-x509", *curve, "-keyout", authority_key, "-out", self.ca, "-days", "30",
                 "-subj", "/CN=twintree test authority")
        _openssl("req", *curve, "-keyout", self.key, "-out", request, "-subj", "/CN=localhost")
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", authority_key, "-CAcreateserial",
                 "-days", "30", "-extfile", extensions, "-out", self.certificate)


def _openssl(*words):
    tools.need("openssl")
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
