#!/bin/sh
# Makes a backup of the database now and lets those go whose time is up. The work role does both by the clock; this is
# for cron, for a change that is about to be made, and for whoever looks for the script by its name.
# Exits 0 when the backup is whole, 1 when not, 2 on wrong use. BAILIWICK_BACKUP_URL says where backups go.
set -eu
bailiwick backup run "$@"
bailiwick backup expire
