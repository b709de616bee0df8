-- One database for each service: none reads another's tables. They make the tables themselves.
CREATE DATABASE callback;
CREATE DATABASE orders;
CREATE DATABASE logistics;
