"""The rules of `flanneld_py/masq.py` as text for nft and for iptables."""
