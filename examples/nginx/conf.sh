#!/bin/sh
# Prints a complete nginx.conf that greets with the words given; what would need root is in the example's folder.
cat <<END
pid /tmp/outrigger-nginx/nginx.pid;
error_log /tmp/outrigger-nginx/error.log;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/outrigger-nginx/t1;
    proxy_temp_path /tmp/outrigger-nginx/t2;
    fastcgi_temp_path /tmp/outrigger-nginx/t3;
    uwsgi_temp_path /tmp/outrigger-nginx/t4;
    scgi_temp_path /tmp/outrigger-nginx/t5;
    server {
        listen 127.0.0.1:8088;
        location / { return 200 "$*\n"; }
        location /health { return 204; }
    }
}
END
