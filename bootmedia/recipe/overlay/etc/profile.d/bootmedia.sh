# Who comes over SSH gets the wizard, once, and what a lost connection does not end.
if [ -t 0 ] && [ -t 1 ] && [ -n "${SSH_CONNECTION-}" ] && [ -z "${TMUX-}${BOOTMEDIA_WIZARD-}" ]; then
	export BOOTMEDIA_WIZARD=1
	if [ -d /usr/lib/python3/dist-packages/rich ] && ! grep -qw bootmedia.wizard=off /proc/cmdline; then
		if bootmedia-session; then exit; fi
	fi
fi
# Once a console: what can be done here. `bootmedia test` waits for the last line.
if [ -t 1 ] && [ -z "${BOOTMEDIA_GREETED-}" ] && [ -z "${SSH_CONNECTION-}${TMUX-}" ]; then
	export BOOTMEDIA_GREETED=1
	bootmedia-greeting
fi
