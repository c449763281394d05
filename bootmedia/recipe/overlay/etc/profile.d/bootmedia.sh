# Once a console: what can be done here. `bootmedia test` waits for the last line.
if [ -t 1 ] && [ -z "${BOOTMEDIA_GREETED-}" ] && [ -z "${SSH_CONNECTION-}${TMUX-}" ]; then
	export BOOTMEDIA_GREETED=1
	bootmedia-greeting
fi
