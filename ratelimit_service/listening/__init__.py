"""What every port needs: addresses and the paths of Unix sockets, and certificates."""
