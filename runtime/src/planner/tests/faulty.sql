-- unknown columns
SELECT nothing FROM big
SELECT id, ammount FROM big
SELECT b.nme FROM big b
SELECT x.id FROM big b
SELECT id FROM big WHERE kk = 1
SELECT id FROM big ORDER BY idd
SELECT count(*) FROM big GROUP BY kx
SELECT "ID" FROM big
SELECT ID, "Odd Col" FROM big
SELECT sum(nothing) FROM big
SELECT b.id FROM big b JOIN mid m ON b.k = m.kk
SELECT * FROM big JOIN mid USING (nope)
SELECT id AS a FROM big WHERE a = 1
SELECT * FROM (SELECT id FROM big) t WHERE t.k = 1
SELECT id FROM big HAVING sum(zz) > 1
-- unknown tables
SELECT * FROM bigg
SELECT * FROM '/etc/passwd'
SELECT * FROM other.big
SELECT * FROM a.b.c.d
SELECT * FROM big WHERE k IN (SELECT k FROM nowhere)
WITH x AS (SELECT 1 AS one) SELECT * FROM y
SELECT big.* FROM tiny
-- functions
SELECT summ(id) FROM big
SELECT nosuchfunction(id) FROM big
SELECT row_numbr() OVER () FROM big
SELECT * FROM unnestt(ARRAY[1])
SELECT * FROM read_csv('x')
SELECT substr(id) FROM big
SELECT upper(1, 2) FROM big
SELECT abs('x') FROM big
SELECT sum(s) FROM big
SELECT date_trunc(1, id) FROM big
SELECT round('a', 'b', 'c') FROM big
SELECT lag(id) FROM big
SELECT row_number() FROM big
SELECT array_length(id) FROM big
SELECT power('a', 2) FROM big
SELECT coalesce() FROM big
-- types
SELECT id + s FROM big
SELECT id AND s FROM big
SELECT id FROM big WHERE id
SELECT id FROM big WHERE id = true
SELECT CAST(id AS nonsense) FROM big
SELECT -s FROM big
SELECT NOT id FROM big
SELECT CASE WHEN id = 1 THEN 1 ELSE ARRAY[1] END FROM big
SELECT id FROM big WHERE s LIKE 5
SELECT interval '1 foo'
SELECT id BETWEEN 'a' AND true FROM big
SELECT id[1] FROM big
SELECT id FROM big WHERE k = ARRAY[1]
-- grouping
SELECT id, count(*) FROM big GROUP BY k
SELECT *, count(*) FROM big GROUP BY k
SELECT id, count(*) FROM big
SELECT k FROM big WHERE count(*) > 1
SELECT sum(count(*)) FROM big
SELECT k FROM big GROUP BY sum(k)
SELECT k FROM big GROUP BY 5
SELECT k FROM big HAVING k > 1
SELECT k, id FROM big GROUP BY k ORDER BY id
SELECT k FROM big GROUP BY k ORDER BY id
SELECT id FROM big QUALIFY k > 1
-- ambiguity
SELECT k FROM big JOIN mid ON big.k = mid.k
SELECT id FROM big a, big b
SELECT a.id FROM big a JOIN tiny a ON true
SELECT 1 AS a, 2 AS a
SELECT a FROM (SELECT 1 AS a, 2 AS a)
WITH x AS (SELECT 1), x AS (SELECT 2) SELECT * FROM x
-- sets and subqueries
SELECT id, k FROM big UNION SELECT id FROM big
SELECT id FROM big UNION ALL SELECT ARRAY[1]
SELECT id FROM big WHERE k IN (SELECT k, id FROM mid)
SELECT (SELECT k, id FROM mid) FROM big
SELECT (SELECT k FROM mid WHERE mid.k > big.k) FROM big
SELECT * FROM big, LATERAL (SELECT * FROM mid WHERE mid.k = big.k LIMIT 1)
VALUES (1), (1, 2)
VALUES (1), ('a')
-- order, limit, windows
SELECT id FROM big ORDER BY 7
SELECT id FROM big ORDER BY 0
SELECT id FROM big LIMIT -1
SELECT id FROM big LIMIT 'a'
SELECT id FROM big LIMIT k
SELECT id FROM big OFFSET -5
SELECT sum(id) OVER (ROWS BETWEEN UNBOUNDED FOLLOWING AND CURRENT ROW) FROM big
SELECT sum(id) OVER w FROM big
SELECT ntile(0) OVER (ORDER BY id) FROM big
SELECT id FROM big WHERE row_number() OVER () = 1
-- syntax
SELECT id FROM big WHEER k = 1
SELECT id FROM
SELEC id FROM big
SELECT (id FROM big
SELECT 'abc FROM big
SELECT id FROM big GROUP k
SELECT * FROM big WHERE
SELECT id FROM big LIMIT 10 OFFSET
SELECT id FROM big ORDER BY id ASC DESC
SELECT "id FROM big
SELECT id FROM big WHERE k = 1 AND AND id = 2
SELECT id FROM big JOIN
SELECT a b c FROM big
SELECT $1
SELECT id FROM big /* comment
SELECT count(* FROM big
SELECT id FROM big JOIN mid
SELECT CAST(id INT) FROM big
SELECT ? FROM big
SELECT @x FROM big
-- parts that are not planned
SELECT id FROM big FETCH FIRST 10 PERCENT ROWS ONLY
SELECT json_extract(s, '$') FROM big
SELECT s ~ '(' FROM big
SELECT regexp_like(s, '(') FROM big
SELECT CAST(id AS MONEY) FROM big
SELECT array_agg(id ORDER BY nope) FROM big
SELECT GROUPING(id) FROM big
SELECT U&'\zzzz'
SELECT x'0g'
-- several lines
SELECT id,\n  k,\n  nme\nFROM big
SELECT sum(id)\nFROM big\nWHERE s = 1\nGROUP BYE k
SELECT upper(1, 2)\nFROM big WHERE upper(3, 4) = 'x'
SELECT id, id FROM big ORDER BY id
SELECT orders.shipdat FROM (SELECT 1 AS shipdate, 2 AS other_column) orders
SELECT id FROM big ORDER k
-- arguments and limits that are no constants
SELECT ntile(k) OVER (ORDER BY id) FROM big
SELECT lag(k, k) OVER (ORDER BY id) FROM big
SELECT lag(k, 1, k) OVER (ORDER BY id) FROM big
SELECT nth_value(k, k) OVER (ORDER BY id) FROM big
SELECT id FROM big LIMIT (SELECT 2)
SELECT id FROM big OFFSET (SELECT 2)
SELECT id FROM big WHERE EXISTS (SELECT 1 FROM mid WHERE mid.g = big.g LIMIT (SELECT 2))
-- constants of other types
SELECT TIMESTAMP '9999-12-31'
SELECT id FROM big WHERE ts < TIMESTAMP '9999-12-31'
SELECT CAST('9999-12-31 12:00:00' AS TIMESTAMP)
SELECT arrow_cast(1.5, 'Float16')
SELECT id FROM big WHERE arrow_cast(id, 'Float16') > arrow_cast(1.5, 'Float16')
-- subqueries that are not planned
SELECT id, (SELECT count(*) FROM mid WHERE mid.k > big.k) FROM (SELECT id, k FROM big LIMIT 5) AS big
SELECT id, (SELECT sum(mid.k + big.k) FROM mid WHERE mid.g = big.g) FROM big
SELECT sum(id) OVER (ORDER BY s RANGE BETWEEN 1 PRECEDING AND CURRENT ROW) FROM big
SELECT sum(id) OVER (ORDER BY l RANGE BETWEEN CURRENT ROW AND '1' FOLLOWING) FROM big
SELECT g, (SELECT count(x) FROM (SELECT DISTINCT mid.k AS x FROM mid WHERE mid.g = big.g) AS q) FROM (SELECT DISTINCT g FROM big) AS big
SELECT id FROM big WHERE s LIKE w ESCAPE '!'
SELECT count(DISTINCT k, g) FROM big
SELECT DISTINCT k FROM big ORDER BY g
SELECT id FROM big WHERE k > (SELECT count(*) FROM (SELECT id FROM mid WHERE mid.k + 1 = big.k) AS a JOIN mid ON true)
SELECT big.id FROM big LEFT JOIN mid ON EXISTS (SELECT 1 FROM tiny WHERE tiny.id = big.id AND tiny.k = mid.k)
SELECT CAST(id AS DOUBLE), id FROM big
